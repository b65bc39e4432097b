"""A trust's data-access and imaging services, for the sandbox: an OMOP database, and a folder of studies."""
