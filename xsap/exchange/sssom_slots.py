"""The slots of SSSOM 1.1 (https://mapping-commons.github.io/sssom/spec-model/): their order, and which are lists, CURIEs, new in 1.1, or of all mappings."""

SSSOM_VERSIONS = ("1.0", "1.1")
_SET_SLOTS = """
sssom_version curie_map mapping_set_id mapping_set_version mapping_set_source mapping_set_title
mapping_set_description mapping_set_confidence creator_id creator_label license subject_type subject_source
subject_source_version object_type object_source object_source_version predicate_type mapping_provider
cardinality_scope mapping_tool mapping_tool_id mapping_tool_version mapping_date publication_date
subject_match_field object_match_field subject_preprocessing object_preprocessing similarity_measure
curation_rule curation_rule_text see_also issue_tracker other comment extension_definitions
"""
_SLOTS = """
record_id subject_id subject_label subject_category predicate_id predicate_label predicate_modifier object_id
object_label object_category mapping_justification author_id author_label reviewer_id reviewer_label creator_id
creator_label license subject_type subject_source subject_source_version object_type object_source
object_source_version predicate_type mapping_provider mapping_source mapping_cardinality cardinality_scope
mapping_tool mapping_tool_id mapping_tool_version mapping_date publication_date review_date confidence
reviewer_agreement curation_rule curation_rule_text subject_match_field object_match_field match_string
subject_preprocessing object_preprocessing similarity_score similarity_measure see_also issue_tracker_item other
comment
"""
_MULTIVALUED = """
author_id author_label cardinality_scope creator_id creator_label curation_rule curation_rule_text
mapping_set_source match_string object_match_field object_preprocessing reviewer_id reviewer_label see_also
subject_match_field subject_preprocessing
"""
_PROPAGATED = """
cardinality_scope curation_rule curation_rule_text mapping_date mapping_provider mapping_tool mapping_tool_id
mapping_tool_version object_match_field object_preprocessing object_source object_source_version object_type
predicate_type similarity_measure subject_match_field subject_preprocessing subject_source
subject_source_version subject_type
"""
_REFERENCES = """
author_id creator_id curation_rule issue_tracker_item mapping_justification mapping_source mapping_tool_id
object_id object_match_field object_preprocessing object_source predicate_id record_id reviewer_id subject_id
subject_match_field subject_preprocessing subject_source
"""
_ONLY_1_1 = """
cardinality_scope mapping_tool_id predicate_type record_id review_date reviewer_agreement
"""

SET_SLOTS = tuple(_SET_SLOTS.split())
SLOTS = tuple(_SLOTS.split())
MULTIVALUED = frozenset(_MULTIVALUED.split())
PROPAGATED = frozenset(_PROPAGATED.split())  # a value of the set is that of each of its mappings
REFERENCES = frozenset(_REFERENCES.split())  # whose values are CURIEs
ONLY_1_1 = frozenset(_ONLY_1_1.split())
SET_ONLY_1_1 = ONLY_1_1 | {"similarity_measure", "curation_rule", "curation_rule_text"}
BUILT_IN = {
    "owl": "http://www.w3.org/2002/07/owl#",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "rdfs": "http://www.w3.org/2000/01/rdf-schema#",
    "semapv": "https://w3id.org/semapv/vocab/",
    "skos": "http://www.w3.org/2004/02/skos/core#",
    "sssom": "https://w3id.org/sssom/",
    "xsd": "http://www.w3.org/2001/XMLSchema#",
    "linkml": "https://w3id.org/linkml/",
}
