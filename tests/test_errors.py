"""What errors say: the one line that operators read, and all of them at once."""

from pixieboot.errors import Faults, OperatorError, WireError


def test_an_operators_fault_is_where_what_and_how_to_mend_it() -> None:
    error = OperatorError("machines.yaml:4", "profile 'flatcra' does not exist", "Did you mean 'flatcar'?")
    assert str(error) == "machines.yaml:4: profile 'flatcra' does not exist. Did you mean 'flatcar'?"
    assert (error.where, error.what, error.mend) == (
        "machines.yaml:4",
        "profile 'flatcra' does not exist",
        "Did you mean 'flatcar'?",
    )


def test_faults_are_told_line_by_line_in_their_order() -> None:
    first, second = OperatorError("a:1", "x", "Mend x."), OperatorError("b:2", "y", "Mend y.")
    faults = Faults([first, second])
    assert str(faults) == "a:1: x. Mend x.\nb:2: y. Mend y."
    assert faults.faults == (first, second)


def test_the_peers_fault_is_no_operators_fault() -> None:
    assert not issubclass(WireError, OperatorError)
