"""Random sentences from Home Assistant's sentence templates, parsed by hassil."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from hassil.expression import (
    Alternative,
    Expression,
    Group,
    ListReference,
    Permutation,
    RuleReference,
    Sentence,
    TextChunk,
)
from hassil.intents import RangeSlotList, SlotList, TextSlotList
from hassil.util import normalize_whitespace


@dataclass(frozen=True)
class Drawer:
    """Draws sentences that a template stands for, one choice per alternative.

    ``hassil.sample`` lists all of them in a fixed order; a template can stand for millions,
    the first of which differ in their last word only.

    Attributes
    ----------
    rules : mapping of str to Sentence
        Expansion rules, by name.
    lists : mapping of str to SlotList
        Values of slots, by name. A slot without values, such as the name of a device, which
        each household chooses for itself, stays in the sentence as "{name}".
    rng : numpy Generator
        Source of the choices.
    """

    rules: Mapping[str, Sentence]
    lists: Mapping[str, SlotList]
    rng: np.random.Generator

    def sentence(self, template: Sentence) -> str:
        """Return one sentence of a template."""
        return str(normalize_whitespace(self._text(template.expression))).strip()

    def _text(self, part: Expression) -> str:
        if isinstance(part, TextChunk):
            return part.original_text
        if isinstance(part, Alternative):
            return self._text(part.items[self._any(len(part.items))])
        if isinstance(part, Permutation):
            order = self.rng.permutation(len(part.items))
            return " ".join(self._text(part.items[i]) for i in order)
        if isinstance(part, Group):
            return "".join(self._text(item) for item in part.items)
        if isinstance(part, RuleReference):
            return self._text(self.rules[part.rule_name].expression)
        assert isinstance(part, ListReference)
        return self._slot(part.list_name)

    def _slot(self, name: str) -> str:
        values = self.lists.get(name)
        if isinstance(values, TextSlotList) and values.values:
            return self._text(values.values[self._any(len(values.values))].text_in)
        if isinstance(values, RangeSlotList):
            numbers = range(values.start, values.stop + 1, values.step)
            return str(numbers[self._any(len(numbers))])
        return f"{{{name}}}"

    def _any(self, count: int) -> int:
        return int(self.rng.integers(count))
