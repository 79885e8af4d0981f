"""A prompt out of messages, in steps."""

import re
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_agent import AIFunction
from kimi_agent.errors import PromptError
from kimi_agent.message import ImageURLPart, MediaURL, Message, TextPart, ThinkPart, ToolCall
from kimi_agent.prompt.pipeline import ApplyContext, PipelineStep, PromptPipeline
from kimi_agent.tools.base import Tool

PICTURE = ImageURLPart(image_url=MediaURL(url="data:image/gif;base64,R0lGODlh"))
SYSTEM, USER, ASSISTANT = Message.system("s"), Message.user("u"), Message.assistant("a")


def asking(*ids: str, text: str = "") -> Message:
    calls = [ToolCall(id=id, function=ToolCall.FunctionBody(name=f"f_{id}", arguments="{}")) for id in ids]
    return Message.assistant(text, tool_calls=calls)


def result(call_id: str | None, text: str = "r") -> Message:
    return Message(role="tool", content=text, tool_call_id=call_id)


def texts(messages: Sequence[Message]) -> list[str]:
    return [message.text for message in messages]


def roles(messages: Sequence[Message]) -> list[str]:
    return [message.role for message in messages]


ONE_OF_EACH = [SYSTEM, USER, asking("c", text="a"), result("c", "t")]
FUNCTION = ToolCall.FunctionBody(name="f", arguments="{}")
TOOL = Tool(name="look_up", description="", parameters={})
pipe = PromptPipeline()
LOOK_AT_FUNCTIONS = pipe.macro_apply(lambda messages, functions: functions)


# ==== pipelines ====


def test_a_pipeline_without_steps_gives_another_list_of_the_same_messages():
    made = pipe(ONE_OF_EACH)
    assert made is not ONE_OF_EACH
    assert all(new is old for new, old in zip(made, ONE_OF_EACH, strict=True))


def test_each_method_gives_another_pipeline():
    longer = pipe.wrap(prefix="<")
    longer.remove()
    assert (len(pipe.steps), len(longer.steps)) == (0, 1)
    assert texts(longer([USER])) == ["<u"]


def test_two_pipelines_can_go_on_from_one():
    base = pipe.wrap(role="user", prefix="<")
    assert base.conversation_fmt(sep="|")([USER, ASSISTANT]) == "<u|a"
    assert base.conversation_dict()([USER]) == [{"role": "user", "content": "<u"}]


def test_any_iterable_of_messages_is_taken():
    assert pipe.conversation_fmt()(message for message in (USER, ASSISTANT)) == "ua"


def test_steps_to_begin_with_may_be_none():
    assert PromptPipeline(None).steps == ()


@pytest.mark.parametrize("run", [LOOK_AT_FUNCTIONS, LOOK_AT_FUNCTIONS.execute], ids=["a call", "execute"])
def test_the_functions_reach_the_steps(run: Callable[..., Any]):
    assert run([USER], [TOOL]) == run([USER], functions=(TOOL,)) == [TOOL]
    assert run([USER]) == run([USER], None) == []


def test_execute_and_a_call_give_the_same():
    fmt = pipe.conversation_fmt(sep=" ")
    assert fmt.execute(ONE_OF_EACH) == fmt(ONE_OF_EACH)


def test_messages_that_are_none_are_refused_by_their_index():
    with pytest.raises(PromptError, match="message 1 of what the pipeline is given is no Message but of type dict"):
        pipe([USER, {"role": "user"}])  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("terminal", [pipe.conversation_fmt(), pipe.conversation_dict()])
def test_no_step_can_follow_one_that_ends_a_pipeline(terminal: Any):
    for build in (terminal.wrap, terminal.remove, terminal.conversation_fmt, terminal.conversation_dict):
        with pytest.raises(ValueError, match=r"Conversation\w+ ends a pipeline; put \w+ before it"):
            build()


def test_copies_reach_the_steps_when_they_are_asked_for():
    seen: list[Message] = []
    keeping = pipe.apply(lambda message: seen.append(message))
    keeping.execute([USER])
    keeping.execute([USER], deepcopy=True)
    assert seen == [USER, USER]
    assert seen[0] is USER
    assert seen[1] is not USER
    assert seen[1].content[0] is not USER.content[0]


def test_a_pipeline_shows_its_steps():
    assert "Wrap" in repr(pipe.wrap(prefix="<"))


# ==== filters ====


ACTS: dict[str, Callable[..., bool]] = {
    "translate_role": lambda message, **filters: any(
        pipe.translate_role(to=to, **filters)([message])[0].role != message.role for to in ("system", "user")
    ),
    "wrap": lambda message, **filters: texts(pipe.wrap(prefix="<", **filters)([message])) == [f"<{message.text}"],
    "merge_consecutive": lambda message, **filters: (
        len(pipe.merge_consecutive(sep="", out_role="user", **filters)([message, message])) == 1
    ),
    "remove": lambda message, **filters: pipe.remove(**filters)([message]) == [],
    "ensure_start": lambda message, **filters: pipe.ensure_start(**filters)([message]) == [message],
    "apply": lambda message, **filters: (
        pipe.apply(lambda message: message.text, **filters)([message]) == [message.text]
    ),
}
"""Whether a step with these filters does anything with a message."""


@pytest.mark.parametrize("acts", ACTS.values(), ids=ACTS)
@pytest.mark.parametrize(
    ("filters", "matching"),
    [
        ({}, "suat"),
        ({"role": "user"}, "u"),
        ({"role": ["user", "tool"]}, "ut"),
        ({"role": {"user"}}, "u"),
        ({"role": frozenset({"user", "system"})}, "su"),
        ({"role": dict.fromkeys(["tool"])}, "t"),
        ({"predicate": lambda message: message.text in "sa"}, "sa"),
        ({"predicate": lambda message: message.tool_calls}, "a"),
        ({"role": ("user", "assistant"), "predicate": lambda message: message.text in "sa"}, "a"),
    ],
)
def test_a_step_is_about_messages_with_a_role_that_the_predicate_accepts(
    acts: Callable[..., bool], filters: dict[str, Any], matching: str
):
    assert "".join(message.text for message in ONE_OF_EACH if acts(message, **filters)) == matching


FILTERED: list[Callable[..., Any]] = [
    lambda **filters: pipe.translate_role(to="user", **filters),
    lambda **filters: pipe.wrap(prefix="<", **filters),
    lambda **filters: pipe.merge_consecutive(sep="", out_role="user", **filters),
    lambda **filters: pipe.remove(**filters),
    lambda **filters: pipe.ensure_start(**filters),
    lambda **filters: pipe.apply(lambda message: message, **filters),
]


@pytest.mark.parametrize("build", FILTERED)
def test_a_wrong_filter_is_refused_when_the_pipeline_is_built(build: Callable[..., Any]):
    with pytest.raises(ValueError, match="'robot' is no role; there are 'system', 'user', 'assistant', 'tool'"):
        build(role="robot")
    with pytest.raises(ValueError, match="have the role 'tool'"):
        build(role=["user", "function"])
    with pytest.raises(ValueError, match="leave it out"):
        build(role=[])
    with pytest.raises(TypeError, match="'user' is no function"):
        build(predicate="user")


@pytest.mark.parametrize("name", ["translate_role", "wrap", "merge_consecutive", "remove", "ensure_start"])
def test_filters_are_named(name: str):
    with pytest.raises(TypeError, match="positional"):
        getattr(pipe, name)("user")


# ==== translate_role ====


def test_a_translated_message_keeps_everything_but_its_role():
    [translated] = pipe.translate_role(role="tool", to="user")([result("c", "t")])
    assert translated == result("c", "t").copy_with(role="user")


def test_a_role_that_is_none_is_refused():
    with pytest.raises(ValueError, match="'function' is no role"):
        pipe.translate_role(to="function")  # pyright: ignore[reportArgumentType]


def test_a_warning_comes_once_each_time_that_messages_are_translated():
    warning = pipe.translate_role(role="tool", to="user", warn="no functions here")
    for _ in range(2):
        with pytest.warns(UserWarning, match="no functions here") as caught:
            warning([USER, result("a"), result("b")])
        assert [warned.filename for warned in caught] == [__file__]
    with pytest.warns(UserWarning, match="no functions here") as caught:
        warning.execute([result("a")])
    assert [warned.filename for warned in caught] == [__file__]


def test_no_warning_comes_when_nothing_is_translated():
    pipe.translate_role(to="user", warn="never")([USER])
    pipe.translate_role(role="tool", to="user", warn="never").execute([result("a")], for_measurement=True)


# ==== wrap ====


@pytest.mark.parametrize(
    ("marks", "text"),
    [({"prefix": "<"}, "<u"), ({"suffix": ">"}, "u>"), ({"prefix": "<", "suffix": ">"}, "<u>"), ({}, "u")],
)
def test_text_stands_around_a_wrapped_message(marks: dict[str, Any], text: str):
    [wrapped] = pipe.wrap(**marks)([USER])
    assert wrapped == Message.user(text)


def test_a_message_without_content_is_wrapped_as_an_empty_text():
    assert pipe.wrap(prefix="<", suffix=">")([Message.assistant(None)]) == [Message.assistant("<>")]


def test_a_picture_survives_wrapping():
    message = Message.user(["look: ", PICTURE])
    [wrapped] = pipe.wrap(prefix="<", suffix=">")([message])
    assert wrapped.content == (TextPart(text="<look: "), PICTURE, TextPart(text=">"))
    assert message.content == (TextPart(text="look: "), PICTURE)


@pytest.mark.parametrize(
    ("content", "wrapped"),
    [
        ([ThinkPart(think="hm"), "a"], (ThinkPart(think="hm"), TextPart(text="<a>"))),
        (["a", ThinkPart(think="hm"), "b"], (TextPart(text="<a"), ThinkPart(think="hm"), TextPart(text="b>"))),
        (["a", ThinkPart(think="hm")], (TextPart(text="<a>"), ThinkPart(think="hm"))),
        ([ThinkPart(think="hm"), PICTURE], (ThinkPart(think="hm"), TextPart(text="<"), PICTURE, TextPart(text=">"))),
        (ThinkPart(think="hm"), (ThinkPart(think="hm"), TextPart(text="<>"))),
    ],
)
def test_text_stands_around_what_is_said_and_reasoning_stays_first(content: Any, wrapped: tuple[Any, ...]):
    assert pipe.wrap(prefix="<", suffix=">")([Message.assistant(content)])[0].content == wrapped


def test_a_text_with_data_of_its_owner_stays_a_part_of_its_own():
    mine = TextPart(text="u", extra={"by": "me"})
    [wrapped] = pipe.wrap(prefix="<")([Message.user(mine)])
    assert wrapped.content == (TextPart(text="<"), mine)


# ==== merge_consecutive ====


def test_messages_in_a_row_become_one():
    merging = pipe.merge_consecutive(role="user", sep="+")
    made = merging([USER, Message.user("v"), ASSISTANT, Message.user("w"), SYSTEM, USER, USER, USER])
    assert texts(made) == ["u+v", "a", "w", "s", "u+u+u"]
    assert merging([USER])[0] is USER


def test_an_empty_separator_is_one():
    assert texts(pipe.merge_consecutive(role="user", sep="")([USER, USER])) == ["uu"]


@pytest.mark.parametrize(
    ("contents", "merged"),
    [
        (["", "a", "", None, "b", ""], (TextPart(text="a+b"),)),
        (["", None], ()),
        ([PICTURE, "a"], (PICTURE, TextPart(text="+a"))),
        (["a", TextPart(text=""), "b"], (TextPart(text="a+b"),)),
        ([ThinkPart(think="hm"), "a"], (ThinkPart(think="hm"), TextPart(text="a"))),
        (
            ["a", [ThinkPart(think="hm"), "b"]],
            (TextPart(text="a+"), ThinkPart(think="hm"), TextPart(text="b")),
        ),
    ],
)
def test_a_separator_stands_between_messages_that_say_anything(contents: list[Any], merged: tuple[Any, ...]):
    [made] = pipe.merge_consecutive(role="user", sep="+")([Message.user(content) for content in contents])
    assert made.content == merged


def test_messages_of_several_roles_become_one_of_the_role_that_is_wanted():
    [merged] = pipe.merge_consecutive(sep=" ", out_role="user")([SYSTEM, USER, ASSISTANT])
    assert merged == Message.user("s u a")
    made = pipe.merge_consecutive(role=["system", "user"], sep=" ", out_role="system")([SYSTEM, USER, ASSISTANT, USER])
    assert made == [Message.system("s u"), ASSISTANT, USER]


@pytest.mark.parametrize("filters", [{}, {"role": ["user", "tool"]}, {"predicate": bool}])
def test_the_role_of_a_merged_message_has_to_be_known(filters: dict[str, Any]):
    with pytest.raises(ValueError, match="out_role"):
        pipe.merge_consecutive(sep="", **filters)


@pytest.mark.parametrize("how", [{}, {"sep": "", "joiner": texts}])
def test_merging_needs_a_separator_or_a_joiner(how: dict[str, Any]):
    with pytest.raises(ValueError, match="either sep or joiner"):
        pipe.merge_consecutive(role="user", **how)


def test_one_role_in_a_list_is_one_role():
    assert pipe.merge_consecutive(role=["user"], sep="-")([USER, USER]) == [Message.user("u-u")]


@pytest.mark.parametrize(
    ("content", "parts"),
    [("x", (TextPart(text="x"),)), (["x", PICTURE], (TextPart(text="x"), PICTURE)), (None, ())],
)
def test_a_joiner_makes_the_content(content: Any, parts: tuple[Any, ...]):
    groups: list[list[Message]] = []

    def joiner(group: list[Message]) -> Any:
        groups.append(group)
        return content

    [merged, _] = pipe.merge_consecutive(role="user", joiner=joiner)([USER, USER, ASSISTANT])
    assert groups == [[USER, USER]]
    assert merged.content == parts


def test_the_parts_of_all_survive_merging():
    pictured = Message.user(["look: ", PICTURE])
    [merged] = pipe.merge_consecutive(role="user", sep="\n")([USER, pictured, USER])
    assert merged.content == (TextPart(text="u\nlook: "), PICTURE, TextPart(text="\nu"))


def test_a_merged_message_has_the_calls_of_all_and_answers_none():
    [merged] = pipe.merge_consecutive(role="assistant", sep="")([asking("a"), ASSISTANT, asking("b", "c")])
    assert [call.id for call in merged.tool_calls or ()] == ["a", "b", "c"]
    [results] = pipe.merge_consecutive(role="tool", sep=" ")([result("a"), result("b")])
    assert (results.text, results.tool_call_id) == ("r r", None)
    assert pipe.merge_consecutive(role="user", sep="")([USER, USER])[0].tool_calls is None


def test_a_merged_message_keeps_a_name_that_all_have():
    ann, bob = Message.user("u", name="ann"), Message.user("u", name="bob")
    merging = pipe.merge_consecutive(role="user", sep="")
    assert [merging([ann, other])[0].name for other in (ann, bob)] == ["ann", None]


def test_a_merged_message_knows_what_one_of_them_knew():
    first = Message.assistant("a", extra={"seen": 1, "by": "ann"}, is_tool_call_error=True)
    last = Message.assistant("b", extra={"by": "bob"}, partial=True)
    [merged] = pipe.merge_consecutive(role="assistant", sep="")([first, last])
    assert merged.extra == {"seen": 1, "by": "bob"}
    assert (merged.partial, merged.is_tool_call_error) == (True, True)
    [merged] = pipe.merge_consecutive(role="assistant", sep="")([last, ASSISTANT])
    assert (merged.partial, merged.is_tool_call_error) == (None, None)
    [merged] = pipe.merge_consecutive(role="assistant", sep="")([ASSISTANT, first])
    assert merged.is_tool_call_error is True


def test_a_joiner_may_do_anything_with_its_list():
    def joiner(group: list[Message]) -> str:
        group.clear()
        return "x"

    [merged] = pipe.merge_consecutive(role="assistant", joiner=joiner)([asking("a"), asking("b")])
    assert [call.id for call in merged.tool_calls or ()] == ["a", "b"]


def test_a_merged_message_cannot_get_a_role_that_is_none():
    with pytest.raises(ValueError, match="'function' is no role"):
        pipe.merge_consecutive(sep="", out_role="function")  # pyright: ignore[reportArgumentType, reportCallIssue]


# ==== function_call_fmt ====


def written(**marks: str) -> PromptPipeline[list[Message]]:
    return pipe.function_call_fmt(lambda call: None if call.id == "secret" else call.name, **marks)


@pytest.mark.parametrize(
    ("message", "marks", "text"),
    [
        (asking("a"), {}, "f_a"),
        (asking("a"), {"prefix": "\n <\n"}, "<\nf_a"),
        (asking("a").copy_with(content=ThinkPart(think="hm")), {}, "f_a"),
        (asking("a", text=" "), {}, " \nf_a"),
        (asking("a", text="hm"), {}, "hm\nf_a"),
        (asking("a", "b", text="hm"), {"prefix": "<", "sep": ",", "suffix": ">"}, "hm<f_a,f_b>"),
        (asking("a", "secret", "b"), {"prefix": "", "sep": ","}, "f_a,f_b"),
        (asking("secret", text="hm"), {"prefix": "<", "suffix": ">"}, "hm"),
        (ASSISTANT, {"prefix": "<", "suffix": ">"}, "a"),
    ],
)
def test_calls_are_written_behind_the_content(message: Message, marks: dict[str, str], text: str):
    [made] = written(**marks)([message])
    assert (made.text, made.tool_calls) == (text, message.tool_calls)


def test_a_call_may_be_written_as_an_empty_text():
    silent = pipe.function_call_fmt(lambda call: "", prefix="<", sep=",", suffix=">")
    assert texts(silent([asking("a", "b", text="hm")])) == ["hm<,>"]


def test_malformed_arguments_are_written_as_the_model_wrote_them():
    raw = ToolCall(id="c", function=FUNCTION.copy_with(arguments='{"city": "Tok'))
    [made] = pipe.function_call_fmt(lambda call: call.arguments)([Message.assistant("hm", tool_calls=[raw])])
    assert made.text == 'hm\n{"city": "Tok'


def test_calls_are_written_behind_a_picture():
    [made] = written()([asking("a").copy_with(content=PICTURE)])
    assert made.content == (PICTURE, TextPart(text="\nf_a"))


# ==== ensure_start ====


@pytest.mark.parametrize(
    ("filters", "left"),
    [({"role": "user"}, "ua"), ({"role": ["assistant", "tool"]}, "tsua"), ({"predicate": lambda m: m.text == "x"}, "")],
)
def test_what_stands_before_the_first_match_is_left_out(filters: dict[str, Any], left: str):
    assert "".join(texts(pipe.ensure_start(**filters)([result("c", "t"), SYSTEM, USER, ASSISTANT]))) == left


def test_a_message_is_measured_wherever_it_stands():
    whole = pipe.ensure_start(role="user").ensure_bound_function_calls(str.upper).conversation_fmt(function_prefix="<")
    assert whole([result("c", "t")]) == ""
    assert whole.execute([result("c", "t")], for_measurement=True) == "<t"
    assert whole.execute([ASSISTANT], for_measurement=True) == "a"


def test_ids_are_translated_in_a_message_that_is_measured():
    translating = pipe.ensure_bound_function_calls(lambda id: f"id-{id}")
    [call] = translating.execute([asking("a")], for_measurement=True)[0].tool_calls or ()
    assert call.id == "id-a"
    assert ids(translating.execute([result("a"), result(None)], for_measurement=True)) == ["id-a", None]


# ==== ensure_bound_function_calls ====


bound = pipe.ensure_bound_function_calls()


def ids(messages: Sequence[Message]) -> list[str | None]:
    return [message.tool_call_id for message in messages if message.role == "tool"]


def test_results_that_follow_their_calls_stay_as_they_are():
    history = [USER, asking("a", "b"), result("b"), result("a"), ASSISTANT]
    assert all(new is old for new, old in zip(bound(history), history, strict=True))


def test_results_whose_call_is_gone_are_left_out():
    assert bound([result("a"), USER, asking("b"), result("x"), result("b"), result("b")]) == [
        USER,
        asking("b"),
        result("b"),
    ]


def test_a_result_without_an_id_gets_that_of_the_only_call():
    assert ids(bound([asking("a"), result(None)])) == ["a"]
    assert ids(bound([asking("a", "b"), result("a"), result(None)])) == ["a", "b"]


def test_a_result_without_an_id_that_could_answer_several_calls_is_an_error():
    with pytest.raises(PromptError, match=r"message 2 is a result without .*calls 'a', 'b' wait"):
        bound([USER, asking("a", "b"), result(None)])


def test_merging_results_before_they_are_bound_is_an_error_that_says_so():
    merging = pipe.merge_consecutive(role="tool", sep="\n").ensure_bound_function_calls()
    with pytest.raises(PromptError, match="let merge_consecutive, which leaves no id, come after this step"):
        merging([asking("a", "b"), result("a"), result("b")])
    assert texts(bound.merge_consecutive(role="tool", sep="+")([asking("a", "b"), result("a"), result("b")])) == [
        "",
        "r+r",
    ]


def test_an_error_about_many_calls_names_the_first_few():
    with pytest.raises(PromptError, match=r"the calls 'a', 'b', 'b', 'd', 'e' and 2 more before it have no result"):
        bound([asking(*"abbdefg"), USER])


def test_results_in_any_order_are_found_without_a_search():
    compared: list[str] = []

    class Id(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            compared.append(self)
            return super().__eq__(other)

        __hash__ = str.__hash__

    names = [f"call_{index}" for index in range(200)]
    calls = tuple(ToolCall.model_construct(id=Id(name), function=FUNCTION) for name in names)
    calling = Message.model_construct(role="assistant", content=(), tool_calls=calls)
    answers = [Message.model_construct(role="tool", content=(), tool_call_id=Id(name)) for name in reversed(names)]
    assert len(bound([calling, *answers])) == 201
    assert 200 <= len(compared) < 200 * 10


def test_a_result_without_an_id_stays_when_no_call_waits():
    assert bound([USER, result(None)]) == [USER, result(None)]


@pytest.mark.parametrize("other", [USER, SYSTEM, ASSISTANT, asking("c")])
def test_another_message_before_the_results_is_an_error(other: Message):
    with pytest.raises(
        PromptError,
        match=r"message 2 is (a user|a system|an assistant) message, but the call 'b' before it has no result",
    ):
        bound([asking("a", "b"), result("a"), other, result("b")])


def test_calls_at_the_very_end_may_wait():
    assert bound([USER, asking("a", "b"), result("a")])[-1] == result("a")


def test_equal_ids_go_first_to_first():
    history = [asking("a", "a"), result("a", "1"), result("a", "2"), USER, asking("a"), result("a", "3")]
    assert bound(history) == history
    assert ids(bound([asking("a", "a"), result(None), result("a"), result("a")])) == ["a", "a"]


def test_ids_are_translated_on_both_sides():
    translated = pipe.ensure_bound_function_calls(lambda id: f"id-{id}")([asking("a", "b"), result("b"), result(None)])
    assert [call.id for call in translated[0].tool_calls or ()] == ["id-a", "id-b"]
    assert ids(translated) == ["id-b", "id-a"]


# ==== apply and macro_apply ====


def test_a_function_is_applied_to_each_match():
    shouting = pipe.apply(lambda message: message.copy_with(content=message.text.upper()), role=["user", "assistant"])
    assert texts(shouting([SYSTEM, USER, ASSISTANT])) == ["s", "U", "A"]


def test_none_leaves_a_message_out_and_other_values_stay():
    assert pipe.apply(lambda message: None if message.text == "s" else "")([SYSTEM, USER]) == [""]


def test_a_function_of_two_arguments_gets_the_context():
    seen: list[ApplyContext] = []

    def look(message: Message, context: ApplyContext) -> Message:
        assert context.msg is message
        seen.append(context)
        return message

    tool = Tool(name="look_up", description="", parameters={})
    history = [USER, ASSISTANT, USER, ASSISTANT]
    pipe.remove(predicate=lambda message: message is SYSTEM).apply(look, role="user")([SYSTEM, *history], [tool])
    assert [(context.idx, context.is_last, context.is_last_of_type) for context in seen] == [
        (0, False, False),
        (2, False, True),
    ]
    assert list(seen[0].messages) == history
    assert list(seen[0].functions) == [tool]


def test_the_last_message_is_known():
    assert pipe.apply(lambda message, ctx: ctx.is_last)([USER, ASSISTANT]) == [False, True]


@pytest.mark.parametrize(
    ("func", "second"),
    [
        (lambda message, context=None: context, ApplyContext),
        (lambda message, context, width=4: context, ApplyContext),
        (lambda message, /, context: context, ApplyContext),
        (partial(lambda width, message, context: context, 4), ApplyContext),
        (lambda message: 0, int),
        (lambda message, *, width=4: width, int),
        (lambda message, *more: len(more), int),
        (lambda message, **more: len(more), int),
        (partial(lambda message, width: width, width=4), int),
        (str, str),
    ],
)
def test_a_second_positional_parameter_gets_the_context_and_nothing_else_does(
    func: Callable[..., Any], second: type[Any]
):
    assert [type(made) for made in pipe.apply(func)([USER])] == [second]


@pytest.mark.parametrize("func", [lambda: "", lambda a, b, c: "", 5])
def test_a_function_that_cannot_be_applied_is_refused_when_the_pipeline_is_built(func: Any):
    with pytest.raises(TypeError, match=r"is called with a message|is no function"):
        pipe.apply(func)


def test_only_the_last_step_gives_something_other_than_messages():
    bad: Any = pipe.apply(lambda message: message.text, role="user")
    with pytest.raises(PromptError, match=r"message 1 of what step 1, Apply, gives is no Message but of type str"):
        bad.conversation_fmt()([SYSTEM, USER])
    worse: Any = pipe.macro_apply(lambda messages, functions: None)
    with pytest.raises(PromptError, match="step 1, MacroApply, gives is no list of messages but of type NoneType"):
        worse.wrap(prefix="<")([USER])


def test_a_function_of_all_messages_gives_all_messages():
    tool = Tool(name="look_up", description="", parameters={})
    seen: list[Tool] = []

    def newest(messages: list[Message], functions: list[Tool]) -> list[Message]:
        seen.extend(functions)
        messages.reverse()
        functions.clear()
        return messages[:1]

    history = [SYSTEM, USER]
    counting = pipe.macro_apply(newest).macro_apply(lambda messages, functions: (texts(messages), len(functions)))
    assert counting(history, [tool]) == (["u"], 1)
    assert (history, seen) == ([SYSTEM, USER], [tool])


def test_the_functions_of_an_agent_are_taken():
    def look_up(word: str) -> str:
        """Look a word up."""
        return word

    naming = pipe.macro_apply(lambda messages, functions: [function.name for function in functions])
    assert naming([], [AIFunction(look_up)]) == ["look_up"]
    with pytest.raises(TypeError, match="'look_up' is no function of a model"):
        naming([], ["look_up"])  # pyright: ignore[reportArgumentType]


# ==== steps of your own ====


class Number(PipelineStep[list[Message]]):
    """Numbers the messages, in place of the list that it gets."""

    def execute(self, messages: list[Message], functions: list[Tool]) -> list[Message]:
        for index, message in enumerate(messages):
            messages[index] = message.copy_with(content=f"{index}. {message.text}")
        return messages


class Total(PipelineStep[int]):
    is_terminal = True

    def execute(self, messages: list[Message], functions: list[Tool]) -> int:
        return sum(map(len, texts(messages)))

    def explain(self) -> str:
        return "Count the letters"


def test_a_step_of_your_own_is_a_step():
    history = [SYSTEM, USER]
    assert texts(PromptPipeline([Number()]).wrap(suffix="!")(history)) == ["0. s!", "1. u!"]
    assert history == [SYSTEM, USER]
    assert pipe.then(Number()).then(Total())(history) == 8
    ended: Any = pipe.then(Total())
    with pytest.raises(ValueError, match=r"Total ends a pipeline; put Number before it"):
        ended.then(Number())
    with pytest.raises(TypeError, match="is no PipelineStep"):
        pipe.then(len)  # pyright: ignore[reportArgumentType]


# ==== terminals ====


def test_a_text_has_the_marks_of_each_role():
    fmt = pipe.conversation_fmt(
        prefix="[",
        suffix="]",
        sep=" ",
        generation_suffix="A:",
        system_prefix="S:",
        system_suffix=";",
        user_prefix="U:",
        user_suffix=",",
        assistant_prefix="A:",
        assistant_suffix=".",
        function_prefix="T:",
        function_suffix="!",
    )
    assert fmt(ONE_OF_EACH) == "[S:s; U:u, A:a. T:t! A:]"
    assert fmt([]) == "[A:]"


def test_results_look_like_what_the_user_says_unless_they_have_marks():
    assert pipe.conversation_fmt(user_prefix="<", user_suffix=">")([result("c", "t")]) == "<t>"
    assert pipe.conversation_fmt(user_prefix="<", user_suffix=">", function_suffix="")([result("c", "t")]) == "<t"
    assert pipe.conversation_fmt(user_prefix="<", user_suffix=">", function_prefix="")([result("c", "t")]) == "t>"


def test_an_answer_at_the_end_can_be_left_open():
    marks = {"assistant_prefix": "A:", "assistant_suffix": ".", "generation_suffix": "A:", "suffix": "]"}
    closed, opened = pipe.conversation_fmt(**marks), pipe.conversation_fmt(**marks, assistant_suffix_if_last="")
    assert closed([USER, ASSISTANT]) == "uA:a.A:]"
    assert opened([USER, ASSISTANT]) == "uA:a]"
    assert opened([ASSISTANT, USER]) == "A:a.uA:]"


@pytest.mark.parametrize("content", [None, "", ThinkPart(think="hm"), PICTURE])
def test_content_without_text_prints_nothing(content: Any):
    message = Message.assistant(content)
    assert pipe.conversation_fmt(assistant_prefix="<", assistant_suffix=">")([message]) == "<>"
    assert pipe.conversation_dict()([message]) == [{"role": "assistant", "content": ""}]


def test_a_separator_stands_between_messages_only():
    assert pipe.conversation_fmt(sep="\n")([USER, ASSISTANT]) == "u\na"


def test_dictionaries_have_a_role_and_a_content():
    assert [tuple(entry.items()) for entry in pipe.conversation_dict()(ONE_OF_EACH)] == [
        (("role", "system"), ("content", "s")),
        (("role", "user"), ("content", "u")),
        (("role", "assistant"), ("content", "a")),
        (("role", "tool"), ("content", "t")),
    ]


def test_dictionaries_have_other_roles_contents_and_keys():
    made = pipe.conversation_dict(
        system_role="S",
        user_role="U",
        assistant_role="A",
        function_role="F",
        content_transform=lambda message: [message.text],
        additional_keys=lambda message: {"id": message.tool_call_id} if message.role == "tool" else {},
    )(ONE_OF_EACH)
    assert made == [
        {"role": "S", "content": ["s"]},
        {"role": "U", "content": ["u"]},
        {"role": "A", "content": ["a"]},
        {"role": "F", "content": ["t"], "id": "c"},
    ]


def test_the_keys_that_are_added_come_last_and_may_replace_the_others():
    replacing = pipe.conversation_dict(additional_keys=lambda message: {"content": None, "id": 1, "role": "R"})
    assert [tuple(entry.items()) for entry in replacing([USER])] == [(("role", "R"), ("content", None), ("id", 1))]


def test_a_content_is_made_for_a_message_without_one():
    made = pipe.conversation_dict(content_transform=lambda message: list(message.parts))([Message.assistant(None)])
    assert made == [{"role": "assistant", "content": []}]


# ==== the pipeline of LLaMA 2 ====

LLAMA = (
    PromptPipeline()
    .wrap(role="system", prefix="<<SYS>>\n", suffix="\n<</SYS>>\n")
    .translate_role(role="system", to="user")
    .merge_consecutive(role="user", sep="\n")
    .merge_consecutive(role="assistant", sep=" ")
    .conversation_fmt(
        user_prefix="<s>[INST] ",
        user_suffix=" [/INST]",
        assistant_prefix=" ",
        assistant_suffix=" </s>",
        assistant_suffix_if_last="",
    )
)


@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        ([SYSTEM, USER], "<s>[INST] <<SYS>>\ns\n<</SYS>>\n\nu [/INST]"),
        ([USER, ASSISTANT, USER, ASSISTANT], "<s>[INST] u [/INST] a </s><s>[INST] u [/INST] a"),
        ([SYSTEM, SYSTEM, USER], "<s>[INST] <<SYS>>\ns\n<</SYS>>\n\n<<SYS>>\ns\n<</SYS>>\n\nu [/INST]"),
        ([USER, USER], "<s>[INST] u\nu [/INST]"),
        ([USER, ASSISTANT, ASSISTANT, USER], "<s>[INST] u [/INST] a a </s><s>[INST] u [/INST]"),
        ([USER, ASSISTANT, ASSISTANT], "<s>[INST] u [/INST] a a"),
    ],
)
def test_the_prompt_of_llama_2(messages: list[Message], prompt: str):
    assert LLAMA(messages) == prompt


# ==== explain ====

EXPLAINED = r"""
A prompt pipeline of 5 steps
1. Put '<<SYS>>\n' before and '\n<</SYS>>\n' behind the content of each system message
2. Give each system message the role user
3. Merge user messages in a row into one user message, with '\n' between them
4. Merge assistant messages in a row into one assistant message, with ' ' between them
5. Write everything as one text; user messages between '<s>[INST] ' and ' [/INST]'; assistant messages between ' ' and ' </s>'; tool messages between '<s>[INST] ' and ' [/INST]'; an answer at the very end gets '' instead of what would follow it

Example: a conversation
  system:    'You are brief.'
  user:      'Hello!'
  assistant: 'Hi.'
  user:      'What is 3 squared?'
becomes
  |<s>[INST] <<SYS>>
  |You are brief.
  |<</SYS>>
  |
  |Hello! [/INST] Hi. </s><s>[INST] What is 3 squared? [/INST]

Example: several user messages in a row
  user:      'Hello!'
  user:      'What is 3 squared?'
becomes
  |<s>[INST] Hello!
  |What is 3 squared? [/INST]

Example: several answers in a row
  user:      'Hello!'
  assistant: 'Hi.'
  assistant: 'How are you?'
  user:      'What is 3 squared?'
becomes
  |<s>[INST] Hello! [/INST] Hi. How are you? </s><s>[INST] What is 3 squared? [/INST]

Example: an answer that is to be continued
  user:      'What is 3 squared?'
  assistant: 'It is'
becomes
  |<s>[INST] What is 3 squared? [/INST] It is

Not shown: several system messages in a row, a function call, two calls at once, a result whose call is gone, a picture, a message without text. To see them: explain(all_cases=True)
"""  # noqa: E501


def test_a_pipeline_explains_itself(capsys: pytest.CaptureFixture[str]):
    LLAMA.explain()
    printed, times = re.subn(r"^becomes, in \d+\.\d\d ms$", "becomes", capsys.readouterr().out, flags=re.MULTILINE)
    assert (printed, times) == (EXPLAINED.lstrip("\n"), 4)
    assert LLAMA.explain_text() + "\n" == EXPLAINED.lstrip("\n")


def test_every_example_can_be_shown():
    shown = LLAMA.explain_text(all_cases=True)
    assert shown.count("Example: ") == 10
    assert "Not shown" not in shown
    assert "'What is this? ' + a picture\nbecomes\n  |<s>[INST] What is this?  [/INST]" in shown


@pytest.mark.parametrize(
    ("options", "examples", "end"),
    [
        ({}, 1, "becomes\n  |Hello!,Hi.,What is 3 squared? & \n"),
        ({"all_cases": True}, 10, ""),
        ({"example": [USER]}, 1, "becomes\n  |u & \n"),
        ({"example": [USER], "functions": [TOOL]}, 1, "becomes\n  |u & look_up\n"),
    ],
)
def test_all_that_explain_is_given_reaches_the_text(
    options: dict[str, Any], examples: int, end: str, capsys: pytest.CaptureFixture[str]
):
    told = pipe.remove(role="system").macro_apply(
        lambda messages, functions: f"{','.join(texts(messages))} & {','.join(tool.name for tool in functions)}"
    )
    text = told.explain_text(**options) + "\n"
    told.explain(**options)
    assert re.sub(r"becomes, in [\d.]+ ms", "becomes", capsys.readouterr().out) == text
    assert text.count("Example: ") == examples
    assert end in text


def test_an_example_of_your_own_is_the_only_one():
    assert pipe.wrap(role="tool", prefix="<").explain_text([result("c"), asking("d", text="hm")]) == (
        "A prompt pipeline of 1 step\n"
        "1. Put '<' before the content of each tool message\n\n"
        "Example: your example\n"
        "  tool:      'r' for 'c'\n"
        "  assistant: 'hm' + call of f_d({}) as 'd'\n"
        "becomes\n"
        "  tool:      '<r' for 'c'\n"
        "  assistant: 'hm' + call of f_d({}) as 'd'"
    )


def test_a_message_without_text_is_explained_by_its_calls_or_as_nothing():
    shown = pipe.explain_text([asking("a"), Message.user("")])
    assert shown.endswith("becomes\n  assistant: call of f_a({}) as 'a'\n  user:      nothing")


def is_short(message: Message) -> bool:
    return len(message.text) < 5


@pytest.mark.parametrize(
    ("pipeline", "sentence", "cases"),
    [
        (
            pipe.translate_role(role=["system", "tool"], to="user", warn="no!"),
            "Give each system or tool message the role user, and warn: 'no!'",
            {"a function call"},
        ),
        (
            pipe.wrap(suffix=">", predicate=is_short),
            "Put '>' behind the content of each message that is_short() accepts",
            set(),
        ),
        (pipe.wrap(), "Put nothing around the content of each message", set()),
        (
            pipe.merge_consecutive(role="tool", joiner=texts),
            "Merge tool messages in a row into one tool message, as texts() joins them",
            {"two calls at once"},
        ),
        (
            pipe.merge_consecutive(sep="", out_role="user"),
            "Merge messages in a row into one user message, with '' between them",
            {
                "two calls at once",
                "several system messages in a row",
                "several user messages in a row",
                "several answers in a row",
            },
        ),
        (
            pipe.function_call_fmt(lambda call: call.name, sep=","),
            r"Append what a lambda makes of each call to the content of its message, with '\n' before them and ',' "
            "between them",
            {"a function call", "two calls at once"},
        ),
        (
            pipe.remove(role="user", predicate=lambda message: not message.content),
            "Leave out each user message that a lambda accepts",
            set(),
        ),
        (
            pipe.ensure_start(role="user"),
            "Leave out what stands before the first user message",
            {"a result whose call is gone"},
        ),
        (
            pipe.ensure_bound_function_calls(is_short),  # pyright: ignore[reportArgumentType]
            "Bind each result to its call, and leave out results whose call is gone, with ids as is_short() "
            "translates them",
            {"a function call", "a result whose call is gone"},
        ),
        (pipe.apply(is_short), "Put what is_short() makes of it in the place of each message", set()),
        (
            pipe.macro_apply(lambda messages, functions: []),
            "Put what a lambda makes of all messages in their place",
            set(),
        ),
        (
            pipe.conversation_dict(function_role="F", additional_keys=lambda message: {}),
            "Write each message as a dictionary with a role and a content; the role tool is called 'F'; with the keys "
            "that a lambda gives",
            {"a function call"},
        ),
        (pipe.conversation_dict(), "Write each message as a dictionary with a role and a content", set()),
        (
            pipe.conversation_dict(additional_keys=texts),  # pyright: ignore[reportArgumentType]
            "Write each message as a dictionary with a role and a content; with the keys that texts() gives",
            {"a function call"},
        ),
        (
            pipe.conversation_fmt(system_prefix="S:", user_suffix=".", function_suffix="."),
            "Write everything as one text; system messages between 'S:' and ''; user messages between '' and '.'; tool "
            "messages between '' and '.'",
            set(),
        ),
        (
            pipe.conversation_fmt(prefix="[", sep=" ", generation_suffix="A:"),
            "Write everything as one text; ' ' between messages; all of it between '[' and ''; 'A:' where the answer "
            "begins",
            set(),
        ),
        (pipe.then(Number()), "Run Number", set()),
        (pipe.then(Total()), "Count the letters", set()),
    ],
)
def test_each_step_says_what_it_does_and_chooses_its_examples(
    pipeline: PromptPipeline[Any], sentence: str, cases: set[str]
):
    text = pipeline.explain_text()
    assert text.splitlines()[1] == f"1. {sentence}"
    shown = {line.removeprefix("Example: ") for line in text.splitlines() if line.startswith("Example: ")}
    assert shown == {"a conversation", *cases}


def test_an_error_in_an_example_is_shown():
    failing = pipe.apply(lambda message: message.content[5])
    assert failing.explain_text([USER]).endswith(
        "becomes\n  an error, IndexError: tuple index out of range, at message 0 (user), in step 1, Apply"
    )


@pytest.mark.parametrize(
    ("pipeline", "lines"),
    [(pipe.remove(), "  nothing"), (pipe.then(Total()), "  1"), (pipe.conversation_fmt(sep="\n"), "  |u")],
)
def test_an_outcome_of_any_type_is_shown(pipeline: PromptPipeline[Any], lines: str):
    assert pipeline.explain_text([USER]).endswith(f"becomes\n{lines}")


def test_explaining_a_pipeline_warns_nobody():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = pipe.translate_role(role="tool", to="user", warn="no").explain_text(all_cases=True)
    assert "an error" not in text


def test_functions_reach_the_examples():
    tool = Tool(name="look_up", description="", parameters={})
    counting = pipe.macro_apply(lambda messages, functions: f"{len(functions)} functions")
    assert counting.explain_text([USER], functions=iter([tool])).endswith("|1 functions")


def test_a_pipeline_without_steps_explains_itself():
    assert pipe.explain_text().startswith("A prompt pipeline without steps")


# ==== explaining to a terminal ====

HARMFUL = [*map(chr, range(0x20)), "\x7f", "\x9b", "\u2028", "\u202e", "\u2066", "\ud800"]


def of_your_own(sentence: Any, given: Any = None) -> PromptPipeline[Any]:
    class Mine(PipelineStep[Any]):
        def execute(self, messages: list[Message], functions: list[Tool]) -> Any:
            if isinstance(given, Exception):
                raise given
            return given

        def explain(self) -> Any:
            return sentence

    return pipe.then(Mine())


class Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize("harmful", HARMFUL, ids=ascii)
def test_no_text_does_anything_to_a_terminal_or_looks_like_another_line(harmful: str):
    def named(message: Message) -> Message:
        return message

    named.__name__ = f"f{harmful}"
    raw = ToolCall(id=f"i{harmful}", function=ToolCall.FunctionBody(name=f"n{harmful}", arguments=f"a{harmful}"))
    history = [Message.assistant([ThinkPart(think=harmful), harmful], tool_calls=[raw]), result(f"i{harmful}", harmful)]
    for explained in (
        of_your_own(f"s{harmful}", {harmful: harmful}),
        of_your_own("", ValueError(harmful)),
        of_your_own("", [harmful, type("C", (), {"__repr__": lambda self: harmful})()]),
        pipe.apply(named),
        pipe.wrap(prefix=harmful).conversation_dict(),
        pipe.conversation_fmt(),
    ):
        text = explained.explain_text(history)
        assert harmful == "\n" or harmful not in text
        assert {line[:2] for line in text.splitlines()} <= {"A ", "1.", "2.", "", "Ex", "  ", "be"}
        assert len(text.splitlines()) <= 12
        text.encode()


def test_an_outcome_keeps_its_lines_and_its_letters():
    assert pipe.conversation_fmt().explain_text([Message.user("ä\n你好\t\\x1b")]).endswith("\n  |ä\n  |你好\\t\\x1b")


@pytest.mark.parametrize(
    "explained",
    [pipe, pipe.conversation_fmt(), pipe.conversation_dict(), pipe.apply(lambda message: 1 / 0), Unspeakable],
)
def test_what_is_long_is_shortened(explained: Any):
    raw = ToolCall(id="c", function=FUNCTION.copy_with(arguments="z" * 1_000_000))
    history = [
        Message.user(f"begin{'x' * 1_000_000}end"),
        *[USER] * 1_000,
        Message.assistant(ThinkPart(think="y" * 1_000_000), tool_calls=[raw]),
    ]
    pipeline = of_your_own("w" * 1_000_000, ValueError("v" * 1_000_000)) if explained is Unspeakable else explained
    text = pipeline.explain_text(history)
    assert len(text) < 100_000
    assert "'beginxxx" in text
    assert "xxxend'" in text
    assert "[... 998,008 characters ...]" in text
    assert "[... 902 more ...]" in text


def test_what_cannot_be_shown_is_named():
    text = of_your_own("", [Unspeakable()]).explain_text([USER])
    assert text.endswith("becomes\n  something of type Unspeakable, whose repr raises RuntimeError")


def test_a_step_that_does_not_explain_itself_is_named():
    assert "\n1. Run Mine\n" in of_your_own(None).explain_text()


# ==== nothing changes ====

any_content = st.one_of(
    st.text(max_size=4),
    st.just(None),
    st.lists(st.sampled_from(["x", PICTURE, ThinkPart(think="hm"), TextPart(text="y", extra={"k": [1]})]), max_size=3),
)
call_ids = st.sampled_from(["a", "b"])
any_message = st.one_of(
    st.builds(Message.system, any_content),
    st.builds(Message.user, any_content),
    st.builds(Message.assistant, any_content),
    st.builds(lambda names: asking(*names), st.lists(call_ids, min_size=1, max_size=3)),
    st.builds(result, st.one_of(st.none(), call_ids), st.text(max_size=3)),
)
filters = st.fixed_dictionaries(
    {},
    optional={
        "role": st.one_of(
            st.sampled_from(["system", "user", "assistant", "tool"]),
            st.sets(st.sampled_from(["system", "user", "assistant", "tool"]), min_size=1),
        ),
        "predicate": st.sampled_from([is_short, lambda message: bool(message.content)]),
    },
)
mark = st.sampled_from(["", "<", "\n"])
Step = Callable[[PromptPipeline[list[Message]]], PromptPipeline[list[Message]]]
any_step: st.SearchStrategy[Step] = st.one_of(
    st.builds(lambda f: lambda p: p.translate_role(to="user", **f), filters),
    st.builds(lambda f, a, b: lambda p: p.wrap(prefix=a, suffix=b, **f), filters, mark, mark),
    st.builds(lambda f, a: lambda p: p.merge_consecutive(sep=a, out_role="user", **f), filters, mark),
    st.builds(
        lambda f: lambda p: p.merge_consecutive(joiner=lambda group: group.pop().content, out_role="tool", **f), filters
    ),
    st.builds(lambda a: lambda p: p.function_call_fmt(lambda call: call.name, sep=a), mark),
    st.builds(lambda f: lambda p: p.remove(**f), filters),
    st.builds(lambda f: lambda p: p.ensure_start(**f), filters),
    st.just(lambda p: p.ensure_bound_function_calls(str.upper)),
    st.builds(lambda f: lambda p: p.apply(lambda message, ctx: None if ctx.idx == 1 else message, **f), filters),
    st.just(lambda p: p.macro_apply(lambda messages, functions: [messages.pop()] if messages else messages)),
    st.just(lambda p: p.then(Number())),
)
any_end: st.SearchStrategy[Callable[[PromptPipeline[list[Message]]], PromptPipeline[Any]]] = st.sampled_from(
    [
        lambda p: p,
        lambda p: p.conversation_fmt(sep="|", assistant_suffix_if_last="~"),
        lambda p: p.conversation_dict(),
        lambda p: p.apply(lambda message: message.text),
    ]
)


def outcome(pipeline: PromptPipeline[Any], messages: list[Message], **options: bool) -> Any:
    try:
        return pipeline.execute(messages, **options)
    except PromptError as error:
        return str(error)


@given(st.lists(any_step, max_size=5), any_end, st.lists(any_message, max_size=8), st.booleans(), st.booleans())
def test_no_pipeline_changes_what_it_is_given(
    steps: list[Step], end: Any, history: list[Message], copied: bool, measuring: bool
):
    pipeline = PromptPipeline()
    for add in steps:
        pipeline = add(pipeline)
    ended = end(pipeline)
    given_messages, before = list(history), [message.model_dump_json() for message in history]
    made = outcome(ended, history, deepcopy=copied, for_measurement=measuring)
    assert all(new is old for new, old in zip(history, given_messages, strict=True))
    assert [message.model_dump_json() for message in history] == before
    assert outcome(ended, history, for_measurement=measuring) == made
