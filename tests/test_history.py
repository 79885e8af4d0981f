"""What makes a history one that can be sent."""

from hypothesis import given
from hypothesis import strategies as st

from kimi_agent.history import is_empty, open_calls, placed, problems, repair
from kimi_agent.message import ImageURLPart, MediaURL, Message, TextPart, ThinkPart, ToolCall


def asking(*ids: str, text: str = "") -> Message:
    """An assistant message with these calls."""
    return Message.assistant(text, tool_calls=[ToolCall(id=id, function=ToolCall.FunctionBody(name="f")) for id in ids])


def result(call_id: str, text: str = "done") -> Message:
    return Message.tool(text, call_id, name="f")


USER = Message.user("hi")
ANSWER = Message.assistant("fine")
MADE_UP = "interrupted"

ids = st.sampled_from(["a", "b", "c"])  # few, so that they collide as Kimi's do
any_message = st.one_of(
    st.just(USER),
    st.just(Message.system("s")),
    st.just(ANSWER),
    st.just(Message.assistant("  ")),
    st.just(Message.assistant(ThinkPart(think="hm"))),
    st.builds(lambda names: asking(*names), st.lists(ids, min_size=1, max_size=3)),
    st.builds(result, ids, st.text(max_size=3)),
)
histories = st.lists(any_message, max_size=14)
valid_groups = st.one_of(
    st.just([USER]),
    st.just([ANSWER]),
    st.lists(ids, min_size=1, max_size=3).map(lambda names: [asking(*names), *map(result, names)]),
)
valid_histories = st.lists(valid_groups, max_size=8).map(
    lambda groups: [message for group in groups for message in group]
)


def repaired(messages: list[Message]) -> list[Message]:
    return repair(messages, interrupted=MADE_UP)


# ==== repair ====


@given(histories)
def test_any_list_of_messages_is_repaired_into_one_that_can_be_sent(messages):
    assert problems(repaired(messages)) == []


@given(histories)
def test_repairing_twice_changes_nothing_more(messages):
    once = repaired(messages)
    again = repaired(once)
    assert len(once) == len(again)
    assert all(first is second for first, second in zip(once, again, strict=True))


@given(valid_histories)
def test_a_valid_history_stays_the_very_objects_it_is(messages):
    assert problems(messages) == []
    again = repaired(messages)
    assert len(again) == len(messages)
    assert all(before is after for before, after in zip(messages, again, strict=True))


@given(histories)
def test_repair_leaves_its_input_alone(messages):
    before = list(messages)
    repaired(messages)
    assert messages == before


@given(histories)
def test_results_stand_behind_their_calls_in_the_order_of_the_calls(messages):
    expected: list[str] = []
    for message in repaired(messages):
        if message.role == "tool":
            assert message.tool_call_id == expected.pop(0)
        else:
            assert expected == []
            expected = [call.id for call in message.tool_calls or ()]


@given(histories)
def test_nothing_but_strays_and_empty_messages_is_left_out_and_the_order_stays(messages):
    spoken = [message for message in messages if message.role != "tool" and not is_empty(message)]
    after = [message for message in repaired(messages) if message.role != "tool"]
    assert all(before is now for before, now in zip(spoken, after, strict=True))


@given(valid_histories, st.data())
def test_a_lost_result_is_made_up_and_says_so(messages, data):
    places = [index for index, message in enumerate(messages) if message.role == "tool"]
    if not places:
        return
    lost = data.draw(st.sampled_from(places))
    after = repaired(messages[:lost] + messages[lost + 1 :])
    assert len(after) == len(messages)
    made_up = [message for message in after if message.text == MADE_UP]
    assert [(message.role, message.name, message.is_tool_call_error) for message in made_up] == [("tool", "f", True)]


def test_equal_ids_of_different_turns_are_kept_apart():
    history = [asking("a"), result("a", "first"), ANSWER, asking("a")]
    assert [message.text for message in repaired(history)] == ["", "first", "fine", "", MADE_UP]


def test_equal_ids_of_one_message_are_answered_first_to_first():
    history = [asking("a", "a"), result("a", "first"), result("a", "second")]
    assert repaired(history) == history
    assert [message.text for message in repaired(history[:2])] == ["", "first", MADE_UP]


def test_a_second_result_and_one_without_a_call_are_left_out():
    assert repaired([asking("a"), result("a", "one"), result("a", "two"), result("b")]) == [
        asking("a"),
        result("a", "one"),
    ]
    assert repaired([result("a"), USER]) == [USER]


def test_results_that_came_late_move_to_their_exchange():
    history = [asking("a", "b"), result("b"), USER, result("a")]
    assert repaired(history) == [asking("a", "b"), result("a"), result("b"), USER]


def test_a_result_never_moves_over_an_assistant_message():
    history = [asking("a"), ANSWER, result("a", "too late")]
    assert [message.text for message in repaired(history)] == ["", MADE_UP, "fine"]


# ==== empty messages ====


def test_an_assistant_message_of_blanks_or_reasoning_is_empty():
    assert all(map(is_empty, [Message.assistant(), Message.assistant(" \n"), Message.assistant(ThinkPart(think="hm"))]))
    assert is_empty(Message.assistant([ThinkPart(think="hm"), TextPart(text=" ")]))


def test_text_calls_pictures_and_a_beginning_are_something():
    picture = ImageURLPart(image_url=MediaURL(url="ms://1"))
    kept = [ANSWER, asking("a"), Message.assistant(picture), Message.user("")]
    assert not any(map(is_empty, kept))
    begun = Message.assistant(partial=True)
    assert list(repair([USER, begun], interrupted="-")) == [USER, begun]
    assert list(repair([USER, begun, USER], interrupted="-")) == [USER, USER]


# ==== problems ====


def test_every_problem_is_a_sentence_with_the_index_of_its_message():
    assert problems([USER, asking("a", "b"), result("b"), USER]) == ["call 'a' of message 1 has no result"]
    assert problems([asking("a")]) == ["call 'a' of message 0 has no result"]
    assert problems([USER, result("x")]) == ["message 1 answers 'x', which is no open call"]
    assert problems([asking("a"), result("a"), result("a")]) == ["message 2 answers 'a', which is no open call"]
    assert problems([USER, Message.assistant(" ")]) == ["assistant message 1 is empty"]
    assert problems([asking("a"), USER, result("a")]) == [
        "call 'a' of message 0 has no result",
        "message 2 answers 'a', which is no open call",
    ]


def test_two_calls_with_one_id_need_two_results():
    assert problems([asking("a", "a"), result("a")]) == ["call 'a' of message 0 has no result"]
    assert problems([asking("a", "a"), result("a"), result("a")]) == []


@given(histories)
def test_repair_has_something_to_do_wherever_there_is_a_problem(messages):
    if problems(messages):
        after = repaired(messages)
        assert len(after) != len(messages) or any(a is not b for a, b in zip(after, messages, strict=True))


# ==== exchanges ====


def test_calls_stay_open_whatever_is_said_before_their_results():
    history = [asking("a", "b"), result("a"), USER]
    assert [call.id for call in open_calls(history)] == ["b"]
    assert placed(history, result("b")) == 2


def test_open_calls_are_those_without_a_result_in_their_order():
    assert open_calls([]) == ()
    assert open_calls([USER]) == ()
    assert [call.id for call in open_calls([asking("a", "b", "c")])] == ["a", "b", "c"]
    assert [call.id for call in open_calls([asking("a", "b", "c"), result("b")])] == ["a", "c"]
    assert open_calls([asking("a"), result("a")]) == ()
    assert [call.id for call in open_calls([asking("a"), ANSWER])] == ["a"]
    assert open_calls([asking("a"), result("a"), asking("b"), result("b"), ANSWER]) == ()


@given(valid_histories, st.lists(ids, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_results_that_are_placed_as_they_finish_end_in_the_order_of_the_calls(before, names, dice):
    history = [*before, asking(*names)]
    finished = [result(name, str(position)) for position, name in enumerate(names)]
    dice.shuffle(finished)
    for number, one in enumerate(finished):
        assert len(open_calls(history)) == len(names) - number
        history.insert(placed(history, one), one)
    assert [message.tool_call_id for message in history[len(before) + 1 :]] == names
    assert problems(history) == []
    assert open_calls(history) == ()


def test_a_result_that_answers_no_open_call_goes_to_the_end():
    assert placed([], result("a")) == 0
    assert placed([USER], result("a")) == 1
    assert placed([asking("a"), result("a")], result("a")) == 2
    assert placed([asking("a"), result("b")], result("x")) == 2
