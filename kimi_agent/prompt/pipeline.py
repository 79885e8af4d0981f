"""A prompt out of messages, in steps: for models that want another form than a list of messages.

A pipeline is a value: each method gives another one with a step more, and what it is given never changes. It knows the
type of what it gives: a list of messages at first, a text after `conversation_fmt`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import copy, deepcopy
from functools import partial
from time import perf_counter
from typing import Any, Generic, TypeVar, cast, overload

from ..message import Content, Message, Role, ToolCall
from ..tools.base import Tool, ToolLike
from .filters import (
    Filter,
    Predicate,
    Roles,
    check_messages,
    check_optional_function,
    check_optional_texts,
    check_texts,
    checked_role,
    definitions,
    function,
    listed,
    noted,
)
from .steps import (
    EnsureBoundFunctionCalls,
    EnsureStart,
    FunctionCallFmt,
    MergeConsecutive,
    PipelineStep,
    Remove,
    TranslateRole,
    Wrap,
)
from .terminals import Apply, ApplyContext, ConversationDict, ConversationFmt, MacroApply

__all__ = ["ApplyContext", "PipelineStep", "PromptPipeline"]

Out = TypeVar("Out", covariant=True)
T = TypeVar("T")


class PromptPipeline(Generic[Out]):
    """Steps that make a prompt out of messages.

    `role` and `predicate` say which messages a step is about: those with the role, or with one of the roles, that the
    predicate accepts; every message without them. Each method gives another pipeline: `pipe = pipe.wrap(prefix="<")`.
    A wrong argument is a `TypeError` or a `ValueError` there, before anything runs.

    Args:
        steps: to begin with; usually none, as each method adds one.
    """

    def __init__(
        self: PromptPipeline[list[Message]], steps: Iterable[PipelineStep[list[Message]]] | None = None
    ) -> None:
        self._steps: tuple[PipelineStep[Any], ...] = ()
        for step in steps or ():
            self._steps = self.then(step).steps

    @property
    def steps(self) -> tuple[PipelineStep[Any], ...]:
        """The steps, in their order."""
        return self._steps

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self._steps)!r})"

    def then(self: PromptPipeline[list[Message]], step: PipelineStep[T]) -> PromptPipeline[T]:
        """The pipeline with a step of your own behind the others.

        Raises:
            ValueError: the step before it gives something other than messages.
            TypeError: `step` is no step.
        """
        if not isinstance(step, PipelineStep):
            raise TypeError(f"{step!r} is no PipelineStep; use apply or macro_apply for a function")
        function(f"{_named(step)}.execute", step.execute)
        if self._steps and self._steps[-1].is_terminal:
            raise ValueError(f"{_named(self._steps[-1])} ends a pipeline; put {_named(step)} before it")
        longer = copy(self)
        longer._steps = (*self._steps, step)
        return cast("PromptPipeline[T]", longer)

    # ==== steps from messages to messages ====

    def translate_role(
        self: PromptPipeline[list[Message]],
        *,
        to: Role,
        warn: str | None = None,
        role: Roles | None = None,
        predicate: Predicate | None = None,
    ) -> PromptPipeline[list[Message]]:
        """Give the matching messages another role.

        Args:
            to: the role.
            warn: a `UserWarning` for when this changes any message; once each time that the pipeline runs.
            role: see the class.
            predicate: see the class.
        """
        check_optional_texts(warn=warn)
        return self.then(TranslateRole(Filter.of(role, predicate), checked_role(to), warn))

    def wrap(
        self: PromptPipeline[list[Message]],
        *,
        prefix: str | None = None,
        suffix: str | None = None,
        role: Roles | None = None,
        predicate: Predicate | None = None,
    ) -> PromptPipeline[list[Message]]:
        """Put text before and behind the content of the matching messages. Pictures and other parts stay.

        Reasoning that comes first in a message still does.

        Args:
            prefix: the text before it.
            suffix: the text behind it.
            role: see the class.
            predicate: see the class.
        """
        check_optional_texts(prefix=prefix, suffix=suffix)
        return self.then(Wrap(Filter.of(role, predicate), prefix, suffix))

    @overload
    def merge_consecutive(
        self: PromptPipeline[list[Message]],
        *,
        sep: str,
        out_role: Role | None = None,
        role: Roles | None = None,
        predicate: Predicate | None = None,
    ) -> PromptPipeline[list[Message]]: ...
    @overload
    def merge_consecutive(
        self: PromptPipeline[list[Message]],
        *,
        joiner: Callable[[list[Message]], Content],
        out_role: Role | None = None,
        role: Roles | None = None,
        predicate: Predicate | None = None,
    ) -> PromptPipeline[list[Message]]: ...
    def merge_consecutive(
        self: PromptPipeline[list[Message]],
        *,
        sep: str | None = None,
        joiner: Callable[[list[Message]], Content] | None = None,
        out_role: Role | None = None,
        role: Roles | None = None,
        predicate: Predicate | None = None,
    ) -> PromptPipeline[list[Message]]:
        """Make one message of matching messages that follow each other, whatever their roles are.

        The merged message has the calls of all, and answers none. A message that stands alone stays as it is.

        Args:
            sep: the text between two messages that say anything. Pictures and other parts stay.
            joiner: in place of `sep`, a function that makes the content out of the messages; `None` for no content.
            out_role: the role of the merged message. Not needed if `role` is one role.
            role: see the class.
            predicate: see the class.

        Raises:
            ValueError: not exactly one of `sep` and `joiner`, or no `out_role` where it is needed.
        """
        where = Filter.of(role, predicate)
        if (sep is None) == (joiner is None):
            raise ValueError("merge_consecutive needs either sep or joiner")
        check_optional_texts(sep=sep)
        check_optional_function("joiner", joiner, "a list of messages")
        merged_role = where.role if out_role is None else checked_role(out_role)
        if merged_role is None:
            raise ValueError("merge_consecutive may find messages of several roles: say in out_role what they become")
        return self.then(MergeConsecutive(where, sep, joiner, merged_role))

    def function_call_fmt(
        self: PromptPipeline[list[Message]],
        func: Callable[[ToolCall], str | None],
        *,
        prefix: str = "\n",
        sep: str = "",
        suffix: str = "",
    ) -> PromptPipeline[list[Message]]:
        """Write the calls of a message into its content. The message keeps the calls.

        Args:
            func: gives the text of a call, or `None` to pass over it. A message with no such text stays as it is.
            prefix: between the content and the first call; without the blanks at its beginning if no content is there.
            sep: between two calls.
            suffix: behind the last call.
        """
        check_texts(prefix=prefix, sep=sep, suffix=suffix)
        return self.then(FunctionCallFmt(function("func", func, "a call"), prefix, sep, suffix))

    def remove(
        self: PromptPipeline[list[Message]], *, role: Roles | None = None, predicate: Predicate | None = None
    ) -> PromptPipeline[list[Message]]:
        """Leave out the matching messages."""
        return self.then(Remove(Filter.of(role, predicate)))

    def ensure_start(
        self: PromptPipeline[list[Message]], *, role: Roles | None = None, predicate: Predicate | None = None
    ) -> PromptPipeline[list[Message]]:
        """Leave out what stands before the first matching message; all, if there is none."""
        return self.then(EnsureStart(Filter.of(role, predicate)))

    def ensure_bound_function_calls(
        self: PromptPipeline[list[Message]], id_translator: Callable[[str], str] | None = None
    ) -> PromptPipeline[list[Message]]:
        """Let each result follow its call, and carry its id.

        A result whose call is gone is left out. One without an id gets that of the call which waits, and stays as it
        is when none waits. Calls at the very end may be without a result. Equal ids go first to first.

        Args:
            id_translator: gives the id that the model is to see, for an id.

        Raises (when the pipeline runs):
            PromptError: something else stands before the results of a call, or a result without an id could answer
                several calls.
        """
        check_optional_function("id_translator", id_translator, "an id")
        return self.then(EnsureBoundFunctionCalls(id_translator))

    # ==== functions of your own ====

    @overload
    def apply(
        self: PromptPipeline[list[Message]],
        func: Callable[[Message], T | None] | Callable[[Message, ApplyContext], T | None],
    ) -> PromptPipeline[list[T]]: ...
    @overload
    def apply(
        self: PromptPipeline[list[Message]],
        func: Callable[[Message], T | None] | Callable[[Message, ApplyContext], T | None],
        *,
        role: Roles,
        predicate: Predicate | None = None,
    ) -> PromptPipeline[list[T | Message]]: ...
    @overload
    def apply(
        self: PromptPipeline[list[Message]],
        func: Callable[[Message], T | None] | Callable[[Message, ApplyContext], T | None],
        *,
        predicate: Predicate,
    ) -> PromptPipeline[list[T | Message]]: ...
    def apply(
        self: PromptPipeline[list[Message]],
        func: Callable[[Message], Any] | Callable[[Message, ApplyContext], Any],
        *,
        role: Roles | None = None,
        predicate: Predicate | None = None,
    ) -> PromptPipeline[list[Any]]:
        """Put what a function gives in the place of each matching message; the others stay.

        Args:
            func: gets the message, and an `ApplyContext` if it has a second positional parameter, even one with a
                default. `None` leaves the message out. If it gives something other than messages, no step can follow.
            role: see the class.
            predicate: see the class.
        """
        return self.then(Apply.of(Filter.of(role, predicate), function("func", func)))

    def macro_apply(
        self: PromptPipeline[list[Message]], func: Callable[[list[Message], list[Tool]], T]
    ) -> PromptPipeline[T]:
        """Put what a function gives in the place of all messages.

        Args:
            func: gets lists of its own of the messages and of the functions. If it gives something other than a list
                of messages, no step can follow.
        """
        return self.then(MacroApply(function("func", func, "the messages", "the functions")))

    # ==== steps that end a pipeline ====

    def conversation_fmt(
        self: PromptPipeline[list[Message]],
        *,
        prefix: str = "",
        sep: str = "",
        suffix: str = "",
        generation_suffix: str = "",
        user_prefix: str = "",
        user_suffix: str = "",
        assistant_prefix: str = "",
        assistant_suffix: str = "",
        assistant_suffix_if_last: str | None = None,
        system_prefix: str = "",
        system_suffix: str = "",
        function_prefix: str | None = None,
        function_suffix: str | None = None,
    ) -> PromptPipeline[str]:
        """Write the messages as one text. What is no text in them, such as a picture or reasoning, is not in it.

        Args:
            prefix: at the very beginning.
            sep: between two messages, and before the `generation_suffix`, if there is one.
            suffix: at the very end.
            generation_suffix: behind the last message, for the model to go on.
            user_prefix: before each user message.
            user_suffix: behind each user message.
            assistant_prefix: before each assistant message.
            assistant_suffix: behind each assistant message.
            assistant_suffix_if_last: if the last message is an assistant's, this stands behind it instead of
                `assistant_suffix` and `generation_suffix`, so that the model continues it.
            system_prefix: before each system message.
            system_suffix: behind each system message.
            function_prefix: before each tool message; as before a user message when it is not given.
            function_suffix: behind each tool message; as behind a user message when it is not given.
        """
        check_texts(prefix=prefix, sep=sep, suffix=suffix, generation_suffix=generation_suffix)
        check_texts(user_prefix=user_prefix, user_suffix=user_suffix)
        check_texts(assistant_prefix=assistant_prefix, assistant_suffix=assistant_suffix)
        check_texts(system_prefix=system_prefix, system_suffix=system_suffix)
        check_optional_texts(function_prefix=function_prefix, function_suffix=function_suffix)
        check_optional_texts(assistant_suffix_if_last=assistant_suffix_if_last)
        marks: dict[Role, tuple[str, str]] = {
            "system": (system_prefix, system_suffix),
            "user": (user_prefix, user_suffix),
            "assistant": (assistant_prefix, assistant_suffix),
            "tool": (
                user_prefix if function_prefix is None else function_prefix,
                user_suffix if function_suffix is None else function_suffix,
            ),
        }
        return self.then(ConversationFmt(marks, prefix, sep, suffix, generation_suffix, assistant_suffix_if_last))

    def conversation_dict(
        self: PromptPipeline[list[Message]],
        *,
        system_role: str = "system",
        user_role: str = "user",
        assistant_role: str = "assistant",
        function_role: str = "tool",
        content_transform: Callable[[Message], Any] | None = None,
        additional_keys: Callable[[Message], Mapping[str, Any]] | None = None,
    ) -> PromptPipeline[list[dict[str, Any]]]:
        """Write each message as a dictionary with `role` and `content`. Calls and ids are in it only if you add them.

        Args:
            system_role: what the role of system messages is called.
            user_role: what the role of user messages is called.
            assistant_role: what the role of assistant messages is called.
            function_role: what the role of tool messages is called.
            content_transform: gives the content for a message; its text when it is not given.
            additional_keys: gives further keys for a message, which may replace these two.
        """
        check_texts(
            system_role=system_role, user_role=user_role, assistant_role=assistant_role, function_role=function_role
        )
        check_optional_function("content_transform", content_transform, "a message")
        check_optional_function("additional_keys", additional_keys, "a message")
        roles: dict[Role, str] = {
            "system": system_role,
            "user": user_role,
            "assistant": assistant_role,
            "tool": function_role,
        }
        return self.then(ConversationDict(roles, content_transform, additional_keys))

    # ==== running it ====

    def __call__(self, messages: Iterable[Message], functions: Iterable[Tool | ToolLike] | None = None) -> Out:
        """The prompt: `execute` without options."""
        return self._run(messages, functions)

    def execute(
        self,
        messages: Iterable[Message],
        functions: Iterable[Tool | ToolLike] | None = None,
        *,
        deepcopy: bool = False,
        for_measurement: bool = False,
    ) -> Out:
        """The prompt. Neither the messages nor the list of them are changed.

        Args:
            messages: the conversation.
            functions: what the model may call; steps get their definitions.
            deepcopy: let the steps have copies of the messages, for functions that keep something in them.
            for_measurement: only the length of the prompt matters, such as that of one message. No message is left
                out because it cannot stand at the beginning, or because its call is gone.

        Raises:
            PromptError: the messages do not fit the steps, or a function gave what its step cannot use. This and
                whatever a function raises has notes that say in which step, and at which of the messages that reached
                it.
        """
        return self._run(messages, functions, copied=deepcopy, measuring=for_measurement)

    def _run(
        self,
        messages: Iterable[Message],
        functions: Iterable[Tool | ToolLike] | None,
        copied: bool = False,
        measuring: bool = False,
    ) -> Out:
        given = listed(messages)
        current: Any = deepcopy(given) if copied else given
        offered = definitions(functions)
        check_messages(current)
        for number, step in enumerate(self._steps, 1):
            if number > 1:
                before = f"what step {number - 1}, {_named(self._steps[number - 2])}, gives"
                check_messages(current, before, f"make it the last step, or let it give what {_named(step)} can take")
            run = step.measure if measuring else step.execute
            with noted(f"in step {number}, {_named(step)}"):
                current = run(list(current), list(offered))
        return current

    # ==== explaining it ====

    def explain(
        self,
        example: Iterable[Message] | None = None,
        functions: Iterable[Tool | ToolLike] | None = None,
        *,
        all_cases: bool = False,
    ) -> None:
        """Print `explain_text`, and how long each example took."""
        print(self._explained(example, functions, all_cases, perf_counter))

    def explain_text(
        self,
        example: Iterable[Message] | None = None,
        functions: Iterable[Tool | ToolLike] | None = None,
        *,
        all_cases: bool = False,
    ) -> str:
        """What the pipeline does, in words and by example. Your functions run on the examples.

        It can go to a terminal: control characters are written as escapes, and what is long is shortened.

        Args:
            example: the only example; without it, the steps choose among those that there are.
            functions: what the model may call in the examples.
            all_cases: show every example.
        """
        return self._explained(example, functions, all_cases, None)

    def _explained(
        self,
        example: Iterable[Message] | None,
        functions: Iterable[Tool | ToolLike] | None,
        all_cases: bool,
        clock: Callable[[], float] | None,
    ) -> str:
        from .explaining import explained  # few programs explain anything

        run = partial(self, functions=definitions(functions))
        return explained(self._steps, run, None if example is None else listed(example), all_cases, clock)


def _named(step: PipelineStep[Any]) -> str:
    return type(step).__name__
