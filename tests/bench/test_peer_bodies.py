"""What ``benchmarks.peers`` asks: as much of everyone, and nothing that a cache has seen."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.peers.bodies import ANSWER_WORDS, Length, Source, body, conversations
from benchmarks.peers.workloads import WORKLOADS, Workload


def messages_of(workload: Workload, seed: int, salt: str) -> list[list[dict[str, Any]]]:
    return list(conversations(workload, Source(seed, salt)))


def words_and_pictures(messages: list[list[dict[str, Any]]]) -> tuple[list[str], list[str]]:
    parts = [
        part
        for conversation in messages
        for message in conversation
        for part in (
            message["content"]
            if isinstance(message["content"], list)
            else [{"type": "text", "text": message["content"]}]
        )
    ]
    texts = [part["text"] for part in parts if part["type"] == "text"]
    pictures = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    return texts, pictures


@pytest.mark.parametrize("name", WORKLOADS)
def test_two_servers_get_the_same_words_in_another_order_and_other_pictures(name: str) -> None:
    workload = replace(WORKLOADS[name], requests=10)
    texts, pictures = words_and_pictures(messages_of(workload, 3, "a"))
    others, other_pictures = words_and_pictures(messages_of(workload, 3, "b"))
    assert texts != others
    for one, other in zip(texts, others, strict=True):
        assert sorted(one.strip("?.").split()) == sorted(other.strip("?.").split())
    assert not set(pictures) & set(other_pictures)
    assert messages_of(workload, 3, "a") == messages_of(workload, 3, "a")


def test_pictures_are_as_the_workload_says() -> None:
    ten = {name: replace(workload, requests=10) for name, workload in WORKLOADS.items()}
    count = {name: words_and_pictures(messages_of(w, 0, "s"))[1] for name, w in ten.items()}
    assert len(set(count["W1"])) == len(count["W1"]) == 10
    assert len(set(count["W4"])) == 1
    assert len(count["W4"]) == 10
    assert count["W5"] == []
    assert len(count["W7"]) == 5
    assert len({len(url) // 1000 for url in count["W7"]}) > 2


def test_a_conversation_grows_by_an_answer_and_a_question() -> None:
    turns = messages_of(WORKLOADS["W6"], 0, "s")[:5]
    assert [len(turn) for turn in turns] == [1, 3, 5, 7, 9]
    for before, after in itertools.pairwise(turns):
        assert after[: len(before)] == before
    assert len(turns[1][1]["content"].split()) == ANSWER_WORDS
    with pytest.raises(ValueError, match="no whole conversations"):
        replace(WORKLOADS["W6"], requests=7)


def test_each_server_is_told_the_length_in_its_own_words() -> None:
    message = [{"role": "user", "content": "hello"}]
    ours = body(message, "m", 16, Length.IGNORE_EOS)
    assert (ours["min_tokens"], ours["max_tokens"], ours["ignore_eos"]) == (16, 16, True)
    theirs = body(message, "m", 16, Length.GENERATION_CONFIG)
    assert json.loads(theirs["generation_config"])["min_new_tokens"] == 16
    assert "min_tokens" not in theirs
