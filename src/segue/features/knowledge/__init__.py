"""Derive triples from item features, and entity vectors from triples."""

from segue.features.knowledge.derive import KnowledgeSettings, add_knowledge, derive_knowledge
from segue.features.knowledge.entity_vectors import EntityVectorSettings, add_entity_vectors, train_entities

__all__ = [
    "EntityVectorSettings",
    "KnowledgeSettings",
    "add_entity_vectors",
    "add_knowledge",
    "derive_knowledge",
    "train_entities",
]
