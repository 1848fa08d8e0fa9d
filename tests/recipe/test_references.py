"""Graph order: a property of all acyclic graphs."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from toy_stages import ToyModel, ToyScores

from gristmill.recipe.references import closure, find_cycle, find_references, topological_order


@st.composite
def graphs(draw):
    count = draw(st.integers(1, 9))
    hidden = draw(st.permutations(range(count)))
    edges = draw(st.sets(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=20))
    needs = {f"s{i}": [] for i in range(count)}
    for a, b in sorted(edges):
        if hidden[a] > hidden[b]:
            needs[f"s{a}"].append(f"s{b}")
    return needs


@given(graphs())
def test_every_stage_comes_after_what_it_needs(needs):
    order = topological_order(needs)
    assert sorted(order) == sorted(needs)
    assert all(order.index(need) < order.index(name) for name in needs for need in needs[name])
    assert find_cycle(needs) is None


@given(st.integers(1, 9))
def test_without_references_the_order_is_that_of_the_file(count):
    names = [f"s{(i * 7) % 10}" for i in range(count)]
    assert topological_order({name: [] for name in names}) == names


@given(graphs(), st.data())
def test_the_closure_is_what_a_stage_needs_and_no_more(needs, data):
    target = data.draw(st.sampled_from(sorted(needs)))
    wanted = closure(needs, target)
    assert target in wanted
    assert all(need in wanted for name in wanted for need in needs[name])
    assert all(name == target or any(name in needs[other] for other in wanted) for name in wanted)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_a_cycle_is_found_and_is_a_closed_path(targets):
    needs = {f"s{i}": [f"s{t % len(targets)}"] for i, t in enumerate(targets)}
    cycle = find_cycle(needs)
    assert cycle is not None
    assert cycle[0] == cycle[-1]
    assert all(after in needs[before] for before, after in pairwise(cycle))


def test_references_are_found_in_fields_and_lists_only_where_marked():
    found = find_references(ToyScores(models=["a", "b@2"]))
    assert [(f.path, f.text, f.kinds) for f in found] == [
        (("models", 0), "a", ("model",)),
        (("models", 1), "b@2", ("model",)),
    ]
    found = find_references(ToyModel(corpus="c", prompts=["no reference"]))
    assert [f.text for f in found] == ["c"]
