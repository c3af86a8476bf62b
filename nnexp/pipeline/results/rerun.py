"""Define what a rerun returns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, repr=False)
class Rerun:
    """A recorded run that was trained again and compared bit by bit.

    Attributes
    ----------
    verdict : str
        `identical` or `differs`.
    difference : str or None
        The first difference; None if there is none.
    causes : tuple of str
        The likely causes, the likeliest first.
    notes : tuple of str
        Further remarks.
    run_id : str
        The run that was trained again.
    recorded_as : str or None
        The id of the rerun's own record; None if nothing was trained or the store cannot be written to.

    Examples
    --------
    >>> import nnexp
    >>> run = nnexp.train(dataset="and", seed=1, epochs=100, figures=False, model=False)
    >>> again = nnexp.rerun(run)
    >>> again.verdict, again.difference, again.causes
    ('identical', None, ())
    """

    run_id: str
    verdict: str
    difference: str | None
    causes: tuple[str, ...]
    notes: tuple[str, ...]
    recorded_as: str | None

    def __repr__(self) -> str:
        """Return one line: `<rerun of 1f0c…: identical>`."""
        return f"<rerun of {self.run_id}: {self.verdict}{f': {self.difference}' if self.difference else ''}>"
