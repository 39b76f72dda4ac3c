"""UMLS semantic types (TUI) ↔ the semantic groups that they fall into.

Fifteen groups over 127 types, disjoint: McCray, Burgun and Bodenreider, "Aggregating UMLS semantic types for reducing conceptual
complexity" (MEDINFO 2001), in the state of 2018 (https://www.nlm.nih.gov/research/umls/knowledge_sources/semantic_network/).
"""

from xsap.errors import DataError, did_you_mean

# A group's abbreviation, its name, and the numbers of its types.
_TABLE = """
ACTI | Activities & Behaviors      | 051 052 053 054 055 056 057 064 066
ANAT | Anatomy                     | 017 018 021 022 023 024 025 026 029 030 031
CHEM | Chemicals & Drugs           | 103 104 109 114 116 120 121 122 123 125 126 127 129 130 131 192 195 196 197 200
CONC | Concepts & Ideas            | 077 078 079 080 081 082 089 102 169 170 171 185
DEVI | Devices                     | 074 075 203
DISO | Disorders                   | 019 020 033 037 046 047 048 049 050 184 190 191
GENE | Genes & Molecular Sequences | 028 085 086 087 088
GEOG | Geographic Areas            | 083
LIVB | Living Beings               | 001 002 004 005 007 008 010 011 012 013 014 015 016 096 097 098 099 100 101 194 204
OBJC | Objects                     | 071 072 073 167 168
OCCU | Occupations                 | 090 091
ORGA | Organizations               | 092 093 094 095
PHEN | Phenomena                   | 034 038 067 068 069 070
PHYS | Physiology                  | 032 039 040 041 042 043 044 045 201
PROC | Procedures                  | 058 059 060 061 062 063 065
"""
_ROWS = [[cell.strip() for cell in line.split("|")] for line in _TABLE.strip().splitlines()]
GROUPS = {group: name for group, name, _ in _ROWS}
_GROUP_OF = {f"T{number}": group for group, _, numbers in _ROWS for number in numbers.split()}
_CODES = {key.casefold(): group for group, name in GROUPS.items() for key in (group, name)}


def group_of(semantic_type: str) -> str | None:
    """The abbreviation of the group that a semantic type belongs to: `T047` → `DISO`. None for what is no TUI known here."""
    return _GROUP_OF.get(semantic_type)


def types_of(group: str) -> frozenset[str]:
    """The semantic types (TUI) of a group, given by its abbreviation or its name. Raises DataError for an unknown one."""
    found = _CODES.get(group.strip().casefold())
    if found is None:
        groups = f"they are {', '.join(GROUPS)}"
        hint = did_you_mean(group, _CODES, otherwise=groups, show=lambda near: f"'{_CODES[near]}'")
        raise DataError(f"unknown semantic group '{group}'{hint}")
    return frozenset(tui for tui, of in _GROUP_OF.items() if of == found)
