"""Bridges to other libraries, one part each."""
