"""Section `card` of pipeline.yaml: what the model card says that no program can know.

card:
  purpose: Finds payments with stolen cards and at compromised terminals, for review within the hour.
  not_for: Decisions on a customer's account.
  contact: fraud-desk@bank.example
"""

from __future__ import annotations

import msgspec


class CardText(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """purpose: default, how the use case's models.py and features.py begin."""

    purpose: str = ""
    not_for: str = "Events of another kind or source than those it learned from; decisions that nobody can appeal."
    contact: str = ""
