"""The server as `evaluate --endpoint` sees it: what it is asked, it answers as the model does in this process."""

from pixel_reasoner_jax.endpoint import Endpoint, EndpointSettings
from pixel_reasoner_jax.evaluation.served_model import ServedModel, own_settings
from pixel_reasoner_jax.rollout import Limits
from pixel_reasoner_jax.rollout.served import ServedPolicy
from tests.serve.conftest import MODEL


def endpoint(client, folder):
    url = f"http://{client.address}/v1"
    return Endpoint(EndpointSettings(MODEL, url, cache=folder, isolated=True, attempts=1))


def test_the_answers_are_those_of_the_policy(served, queries, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    client = served()
    policy, asked = client.engine.policy, endpoint(client, tmp_path)
    model = ServedModel(asked)
    assert model.own.budgets == policy.processor.budgets
    limits = Limits(2, 24)
    there = ServedPolicy(asked, budgets=model.own.budgets, limits=limits).rollout(queries[:3], temperature=0.0)
    text_only = ServedPolicy(asked, budgets=model.own.budgets, limits=limits, text_only=True)
    without = text_only.rollout(queries[:3], temperature=0.0)
    policy.limits = limits
    here = policy.rollout(queries[:3], temperature=0.0)
    policy.registry = None
    plain = policy.rollout(queries[:3], temperature=0.0)
    assert [[one.response for one in group] for group in there] == [[one.response for one in group] for group in here]
    assert [g[0].ended for g in there] == [g[0].ended for g in here]
    assert [[one.response for one in group] for group in without] == [
        [one.response for one in group] for group in plain
    ]


def test_what_a_server_says_of_its_model_is_not_trusted():
    for said in (None, {}, {"settings": 7}, {"settings": {"limits": {}}}, {"settings": {"limits": {"x": 1}}}):
        assert own_settings(said).settings.operations
