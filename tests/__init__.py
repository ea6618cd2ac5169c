"""Tests of tunneld; a package so that `tests.support` can be imported from every folder."""
