"""Scripts and style sheets lose what only their authors read, and nothing else."""

from __future__ import annotations

import pytest

from flip_fl.dashboard import squeeze


@pytest.mark.parametrize(
    ("written", "travels"),
    [
        ("const a = (b, c) => { return b / c / 2; };", "const a=(b,c)=>{return b/c/2;};"),
        ("a + +b - -c + b++ + c", "a+ +b- -c+b++ +c"),
        ('x.replace(/[/ ] "/g, "\' ") / 2', 'x.replace(/[/ ] "/g,"\' ")/2'),
        ("return / a b /.test(x) ? typeof y : 0", "return/ a b /.test(x)?typeof y:0"),
        ("`a  ${ b + `c  ${ {d: '}'}.d } ` }  \\` //`", "`a  ${b+`c  ${{d:'}'}.d} `}  \\` //`"),
        ("a // why\n  b /* c */ d\n", "a\nb d"),
        ("let x = 'it\\'s  //  so'", "let x='it\\'s  //  so'"),
        ("return\n  x", "return\nx"),
        ("for (const a of [1, 2]) if (a in b) c.d = null", "for(const a of[1,2])if(a in b)c.d=null"),
    ],
)
def test_a_script_keeps_its_meaning(written: str, travels: str) -> None:
    """Spaces go where no two words would meet; texts, templates, expressions and line ends stay as they are."""
    assert squeeze.script(written) == travels + "\n"


def test_a_style_sheet_keeps_its_meaning() -> None:
    """A space that joins selectors or separates values stays, and so does one in a text or around a sign to add."""
    written = (
        '/* why */\na :hover, b > c { margin: 0 2px; width: calc(1px + 2px); content: "a ;  b" }\n\n'
        "  @media (x: 1px) { d { e: f } }\n"
    )
    assert squeeze.style(written) == (
        'a :hover,b > c{margin:0 2px;width:calc(1px + 2px);content:"a ;  b"}@media (x:1px){d{e:f}}\n'
    )
