"""Names that a concept is lent by its trade names: MRREL's `has_tradename` and `tradename_of`.

In MRREL the second concept of a row has the relation to the first: `CUI1 … CUI2 … tradename_of` says that CUI2 is a trade name of CUI1, and
`has_tradename` the reverse (https://www.ncbi.nlm.nih.gov/books/NBK9685/, section 3.3.9). Each relation stands there in both forms, often;
so pairs are taken once. The original code reads both forms as "the first gets the names of the second", and keeps only the last second
one of each first; here a concept gets the names of all its trade names, and a trade name those of nobody.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from data_prep.rejects import Rejects
from data_prep.rrf import read_rrf
from data_prep.umls_files import MRREL
from xsap.terms.terminology import NAMES_SCHEMA

_TRADE, _CONCEPT = "trade", "concept_id"


class Tradenames:
    """pairs: (concept_id, trade), each once: the concept, and the one that is a trade name of it."""

    def __init__(self, pairs: pa.Table) -> None:
        self._pairs = pairs.group_by([_CONCEPT, _TRADE]).aggregate([])
        self._trades = pc.unique(self._pairs[_TRADE])
        self._concepts = pc.unique(self._pairs[_CONCEPT])
        self._lendable = [NAMES_SCHEMA.empty_table()]
        self._borrowers = [pa.chunked_array([], pa.string())]

    @classmethod
    def read(cls, mrrel: Path, rejects: Rejects | None = None) -> "Tradenames":
        """The relations in MRREL that no source suppresses. Raises DataError with file and line."""
        parts = [pa.table({_CONCEPT: pa.array([], pa.string()), _TRADE: pa.array([], pa.string())})]
        rows = read_rrf(mrrel, MRREL, ("CUI1", "CUI2", "RELA", "SUPPRESS"), rejects=rejects, only=b"tradename")
        for block in rows:
            block = block.filter(pc.equal(block["SUPPRESS"], "N"))
            for relation, concept, trade in (("tradename_of", "CUI1", "CUI2"), ("has_tradename", "CUI2", "CUI1")):
                found = block.filter(pc.equal(block["RELA"], relation))
                parts.append(pa.table({_CONCEPT: found[concept], _TRADE: found[trade]}))
        pairs = pa.concat_tables(parts)
        return cls(pairs.filter(pc.not_equal(pairs[_CONCEPT], pairs[_TRADE])))

    @property
    def relations(self) -> int:
        """How many pairs there are."""
        rows: int = self._pairs.num_rows
        return rows

    def see(self, names: pa.Table) -> None:
        """Remember, of names that are kept, those that may be lent, and who is there to be lent some."""
        self._lendable.append(names.select(NAMES_SCHEMA.names).filter(pc.is_in(names[_CONCEPT], self._trades)))
        ids = pc.unique(names[_CONCEPT])
        self._borrowers.append(pa.chunked_array([ids.filter(pc.is_in(ids, self._concepts))]))

    def names(self) -> pa.Table:
        """The names lent, as NAMES_SCHEMA: those of each trade name, under each concept that has it and has a name of its own."""
        there = pc.unique(pa.chunked_array([chunk for part in self._borrowers for chunk in part.chunks], pa.string()))
        pairs = self._pairs.filter(pc.is_in(self._pairs[_CONCEPT], there))
        lendable = pa.concat_tables(self._lendable).rename_columns([_TRADE, *NAMES_SCHEMA.names[1:]])
        lent = lendable.join(pairs, keys=_TRADE, join_type="inner").select(NAMES_SCHEMA.names)
        at = NAMES_SCHEMA.get_field_index("kind")
        return lent.set_column(at, "kind", pa.repeat(pa.scalar("tradename"), lent.num_rows)).cast(NAMES_SCHEMA)
