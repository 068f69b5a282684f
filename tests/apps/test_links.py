"""Links and presets: what goes out comes back, and a bad link gets a sentence."""

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest

from apps import links, session
from workbench.errors import WorkbenchError


@pytest.mark.parametrize("space", list(session.spaces()))
def test_a_link_opens_what_it_was_made_from(space):
    for columns in links.presets(space).values():
        setup = session.check(space, columns, 12, 99, session.ANY)
        assert links.from_query(dict(parse_qsl(links.to_query(setup)))) == setup


def test_a_short_link_leaves_the_rest_as_the_page_opens():
    assert links.from_query({"space": "moons"}) == links.opening("moons")
    assert links.from_query({}) == links.opening(next(iter(session.spaces())))
    changed = links.from_query({"space": "moons", "seed": "5", "c1": "moons,euler,karras,7,1", "__theme": "dark"})
    assert changed.seed == 5 and changed.columns == (("moons", "euler", "karras", 7, 1.0),)


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ({"space": "moon"}, "did you mean 'moons'"),
        ({"space": "<script>alert(1)</script>"}, "unknown space"),
        ({"who": "me"}, "unknown part 'who'"),
        ({"n": "many"}, "whole number"),
        ({"n": "1" * 30}, "the number of samples"),
        ({"seed": "-4"}, "the seed"),
        ({"c1": "moons"}, "model,sampler,schedule,steps,guidance"),
        ({"c1": "../../etc/passwd,euler,own,1,1"}, "unknown model"),
        ({"c1": "moons,euler,own,1e9,1"}, "model,sampler,schedule,steps,guidance"),
        ({"c1": "moons,euler,own,999999,1"}, f"from 1 to {session.MOST_STEPS}"),
        ({"c1": "moons,euler,own,4,nan"}, "guidance"),
        ({"c1": "x" * 5000}, "at most"),
        ({"class": "nobody"}, "unknown class"),
    ],
)
def test_a_bad_link_gets_one_sentence(query, told):
    with pytest.raises(WorkbenchError) as caught:
        links.from_query({"space": "moons"} | query)
    assert told in str(caught.value) and len(str(caught.value)) < 400


def test_presets_are_what_their_names_say():
    for space in session.spaces():
        found = links.presets(space)
        assert len(found) >= 2 and all(1 <= len(columns) <= 4 for columns in found.values())
        steps = found["the teacher with 2, 4, 8, 32 steps"]
        assert [setting.steps for setting in steps] == [2, 4, 8, 32] and len({setting.model for setting in steps}) == 1
        for columns in found.values():
            session.check(space, columns, 4, 0, session.ANY)
