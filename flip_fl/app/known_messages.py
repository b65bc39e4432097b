"""Texts that the interpreter, numpy and torch raise from compiled code, where no literal can be read from a frame.

Holes: ``{v}`` a value (replaced), ``{n}`` a name (shown when the code knows it), ``{d}`` and ``{s}`` numbers that
describe structure (a size, an axis, a shape), ``{o}`` an operator.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

_HOLES = {
    "v": r".*?",
    "n": r"[A-Za-z_][\w.]*",
    "d": r"-?\d+",
    "s": r"[\d\sx,()\[\]-]*",
    "o": r"[-+*/%@&|^<>=!~]+(?: or pow\(\))?|divmod\(\)",
}
_HOLE = re.compile(r"\{([vndso])\}")

_MESSAGES = """
The provided dataframe does not contain an 'accession_id' column.
could not convert string to float: {v}
could not convert string to complex: {v}
invalid literal for int() with base {d}: {v}
cannot convert float NaN to integer
cannot convert float infinity to integer
cannot convert NA to integer
Cannot convert non-finite values (NA or inf) to integer
division by zero
float division by zero
integer division or modulo by zero
integer modulo by zero
float modulo
math domain error
math range error
list index out of range
tuple index out of range
string index out of range
range object index out of range
list assignment index out of range
pop from empty list
pop from an empty set
pop from an empty deque
list.remove(x): x not in list
tuple.index(x): x not in tuple
{v} is not in list
substring not found
dictionary changed size during iteration
generator already executing
maximum recursion depth exceeded
maximum recursion depth exceeded in comparison
maximum recursion depth exceeded while calling a Python object
not enough values to unpack (expected {d}, got {d})
not enough values to unpack (expected at least {d}, got {d})
too many values to unpack (expected {d})
too many values to unpack (expected {d}, got {d})
name '{n}' is not defined
local variable '{n}' referenced before assignment
cannot access local variable '{n}' where it is not associated with a value
cannot access free variable '{n}' where it is not associated with a value in enclosing scope
'{n}' object has no attribute '{n}'
module '{n}' has no attribute '{n}'
partially initialized module '{n}' has no attribute '{n}' (most likely due to a circular import)
type object '{n}' has no attribute '{n}'
'{n}' object is not subscriptable
'{n}' object is not callable
'{n}' object is not iterable
'{n}' object is not an iterator
'{n}' object is not a mapping
'{n}' object does not support item assignment
'{n}' object does not support item deletion
'{n}' object does not support the context manager protocol
'{n}' object cannot be interpreted as an integer
cannot unpack non-iterable {n} object
argument of type '{n}' is not iterable
argument of type '{n}' is not a container or iterable
unhashable type: '{n}'
cannot use '{n}' as a dict key (unhashable type: '{n}')
cannot use '{n}' as a set element (unhashable type: '{n}')
object of type '{n}' has no len()
bad operand type for unary {o}: '{n}'
bad operand type for abs(): '{n}'
unsupported operand type(s) for {o}: '{n}' and '{n}'
'{o}' not supported between instances of '{n}' and '{n}'
can only concatenate str (not "{n}") to str
can only concatenate list (not "{n}") to list
can only concatenate tuple (not "{n}") to tuple
sequence item {d}: expected str instance, {n} found
must be real number, not {n}
a real number is required, not {n}
must be str, not {n}
list indices must be integers or slices, not {n}
tuple indices must be integers or slices, not {n}
string indices must be integers, not '{n}'
slice indices must be integers or None or have an __index__ method
int() argument must be a string, a bytes-like object or a real number, not '{n}'
float() argument must be a string or a real number, not '{n}'
expected str, bytes or os.PathLike object, not {n}
{n}() takes no arguments
{n}() takes {d} positional argument but {d} were given
{n}() takes {d} positional arguments but {d} were given
{n}() takes {d} positional arguments but {d} was given
{n}() takes from {d} to {d} positional arguments but {d} were given
{n}() missing {d} required positional argument: '{n}'
{n}() missing {d} required positional arguments: '{n}' and '{n}'
{n}() missing {d} required positional arguments: '{n}', '{n}', and '{n}'
{n}() missing {d} required keyword-only argument: '{n}'
{n}() got an unexpected keyword argument '{n}'
{n}() got an unexpected keyword argument '{n}'. Did you mean '{n}'?
{n}() got multiple values for argument '{n}'
'{n}' is an invalid keyword argument for {n}()
No module named '{n}'
cannot import name '{n}' from '{n}' ({v})
cannot import name '{n}' from partially initialized module '{n}' (most likely due to a circular import) ({v})
'{n}' codec can't decode byte {v}
'{n}' codec can't encode character {v}
unconverted data remains: {v}
time data {v}
month must be in 1..12
day is out of range for month
Unable to parse string {v} at position {v}
Unknown datetime string format, unable to parse: {v}
operands could not be broadcast together with shapes {s}
operands could not be broadcast together with remapped shapes {v}
shapes {s} and {s} not aligned: {v}
cannot reshape array of size {d} into shape {s}
index {v} is out of bounds for axis {d} with size {d}
index {v} is out of bounds for size {d}
axis {d} is out of bounds for array of dimension {d}
setting an array element with a sequence.
setting an array element with a sequence. The requested array has an inhomogeneous shape after {d} dimensions. The detected shape was {s} + inhomogeneous part.
all the input array dimensions except for the concatenation axis must match exactly, but along dimension {d}, the array at index {d} has size {d} and the array at index {d} has size {d}
zero-size array to reduction operation {n} which has no identity
need at least one array to concatenate
The truth value of an array with more than one element is ambiguous. Use a.any() or a.all()
only integer scalar arrays can be converted to a scalar index
only length-1 arrays can be converted to Python scalars
only 0-dimensional arrays can be converted to Python scalars
can't convert np.ndarray of type numpy.{n}. The only supported types are: {v}.
mat1 and mat2 shapes cannot be multiplied ({s} and {s})
mat1 and mat2 must have the same dtype, but got {n} and {n}
The size of tensor a ({d}) must match the size of tensor b ({d}) at non-singleton dimension {d}
shape '{s}' is invalid for input of size {d}
Sizes of tensors must match except in dimension {d}. Expected size {d} but got size {d} for tensor number {d} in the list.
Dimension out of range (expected to be in range of [{d}, {d}], but got {d})
expected scalar type {n} but found {n}
stack expects a non-empty TensorList
stack expects each tensor to be equal size, but got {s} at entry {d} and {s} at entry {d}
Expected more than 1 value per channel when training, got input size {v}
element {d} of tensors does not require grad and does not have a grad_fn
grad can be implicitly created only for scalar outputs
all elements of input should be between 0 and 1
Target {v} is out of bounds.
a Tensor with {d} elements cannot be converted to Scalar
Boolean value of Tensor with more than one value is ambiguous
index out of range in self
0D or 1D target tensor expected, multi-target not supported
"{n}" not implemented for '{n}'
[Errno {d}] No such file or directory: {v}
[Errno {d}] Permission denied: {v}
[Errno {d}] Is a directory: {v}
[Errno {d}] Not a directory: {v}
[Errno {d}] No space left on device
[Errno {d}] No space left on device: {v}
[Errno {d}] File exists: {v}
"""  # noqa: E501


@cache
def _patterns() -> tuple[re.Pattern[str], ...]:
    return tuple(_compile(line) for line in _MESSAGES.strip().splitlines())


def fill(message: str, is_known: Callable[[str], bool]) -> str | None:
    """``message`` with its values taken out, when it is one of the known texts; else None."""
    for pattern in _patterns():
        match = pattern.fullmatch(message)
        if match is None:
            continue
        parts, at = [], 0
        for hole, text in match.groupdict().items():
            start, end = match.span(hole)
            parts += [message[at:start], _shown(hole[0], text, is_known)]
            at = end
        return "".join([*parts, message[at:]])
    return None


def _shown(kind: str, text: str, is_known: Callable[[str], bool]) -> str:
    if kind == "v":
        return "<value>"
    if kind == "n" and not all(is_known(part) for part in re.findall(r"\w+", text)):
        return "<name>"
    return text


def _compile(line: str) -> re.Pattern[str]:
    parts = _HOLE.split(line)
    pattern = [re.escape(parts[0])]
    for number, (kind, text) in enumerate(zip(parts[1::2], parts[2::2], strict=True)):
        pattern += [f"(?P<{kind}{number}>{_HOLES[kind]})", re.escape(text)]
    return re.compile("".join(pattern), re.DOTALL)
