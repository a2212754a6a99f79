"""Who learns from it: the DetCon trainer. Imports `schemas` only; it never sees `masks` or `pipelines`."""
