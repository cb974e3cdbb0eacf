"""Every registered model passes every check of the contract."""

import pytest

from segue.core.registry import model_keys
from segue.testing import CHECKS, contract, subject


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("key", model_keys())
def test_contract(key: str, check: str) -> None:
    CHECKS[check](subject(key))


def test_contract_reports_all_failures_together(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise AssertionError("broken on purpose")

    for name in ("accepts_any_query", "is_documented"):
        monkeypatch.setitem(CHECKS, name, broken)  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match=r"popular: accepts_any_query: broken.*\n.*is_documented: broken"):
        contract("popular")
