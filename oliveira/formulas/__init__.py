"""Every formula of the seed documents by id: as written, as published, and a numeric check with the counter-example.

for found in formulas():
    result = run(found)      # figures and claims; result.holds is False if one claim fails
"""

from oliveira.formulas.registry import Check, Claim, Formula, Result, Seed, find, formula, formulas, run

__all__ = ["Check", "Claim", "Formula", "Result", "Seed", "find", "formula", "formulas", "run"]
