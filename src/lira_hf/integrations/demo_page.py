"""The demo's page in Gradio: a thin layer over [`LiraDemo`] that asks nothing of any other machine."""

import logging
import os
from collections.abc import Callable
from typing import Any

from .demo import DETECT, LONGEST_TEXT, DemoExample, DemoWorker, LiraDemo
from .demo_html import STYLE, render_answers, render_error, render_heading, render_shown


# Gradio reads it when it is imported: no statistics, no look for newer versions.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

try:
    import gradio as gr
    from starlette.middleware import Middleware
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
except ImportError as error:
    raise ImportError(
        f"gradio can't be imported ({error}); expected it for the demo's page; pip install 'lira-hf[demo]'"
    ) from error


__all__ = ["build_page", "serve_page"]

logger = logging.getLogger(__name__)

# The browser itself refuses to load anything from, or send anything to, another machine. Gradio needs inline scripts
# and makes functions of its templates.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
_LABEL = 48  # characters of an example
_READABLE = (ValueError, OSError, RuntimeError)


class _OwnMachineOnly:
    """Adds the policy to every answer."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(b"content-security-policy", _POLICY.encode()), (b"referrer-policy", b"no-referrer")]
                message["headers"] = [*message.get("headers", []), *headers]
            await send(message)

        await self.app(scope, receive, send_with_policy)


def build_page(worker: DemoWorker) -> gr.Blocks:
    """
    The page of a demo.

    Args:
        worker ([`DemoWorker`]): Answers for the demo.

    Returns:
        `gradio.Blocks`: To launch by [`serve_page`], or to mount in an application of your own.
    """
    demo = worker.demo
    with gr.Blocks(title="LiRA demo", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(render_heading(demo))
        if demo.generator is None:
            _look_panel(worker, demo)
        else:
            with gr.Tab("Look"):
                _look_panel(worker, demo)
            with gr.Tab("Ask"):
                _ask_panel(worker, demo)
    return page


def _inputs(demo: LiraDemo, label: str, button: str) -> tuple[gr.Textbox, gr.Dropdown, gr.Textbox, gr.Button]:
    with gr.Row():
        text = gr.Textbox(label=label, lines=2, max_lines=8, scale=4, max_length=LONGEST_TEXT, autofocus=True)
        language = gr.Dropdown(
            demo.language_choices(), value=DETECT, label="Language", allow_custom_value=True, scale=2, min_width=220
        )
    pressed = gr.Button(button, variant="primary")
    with gr.Accordion("Candidate translations by hand", open=not demo.has_source):
        typed = gr.Textbox(label="English, one a line", lines=2, max_lines=8, max_length=LONGEST_TEXT)
    return text, language, typed, pressed


def _look_panel(worker: DemoWorker, demo: LiraDemo) -> None:
    text, language, typed, pressed = _inputs(demo, "Text, in any language", "Look")
    own = demo.embedder.processor.anchor_languages

    def look(text: str | None, language: str | None, typed: str | None = None) -> str:
        return _told(lambda: render_shown(worker.call(demo.look, text or "", language, typed or ""), own))

    shown = gr.HTML(elem_id="lira-shown", render=False)
    _examples(demo, look, [text, language], shown)  # above what it fills
    shown.render()
    _listen(look, [text, language, typed], shown, pressed, text)


def _ask_panel(worker: DemoWorker, demo: LiraDemo) -> None:
    question, language, typed, pressed = _inputs(demo, "Question, in any language", "Ask")

    def ask(question: str | None, language: str | None, typed: str | None) -> str:
        return _told(lambda: render_answers(worker.call(demo.ask, question or "", language, typed or "")))

    answers = gr.HTML(elem_id="lira-answers")
    _listen(ask, [question, language, typed], answers, pressed, question)


def _listen(function: Callable[..., str], inputs: list[Any], output: gr.HTML, button: gr.Button, box: gr.Textbox):
    options = {"concurrency_limit": 1, "concurrency_id": "model", "api_visibility": "private"}
    button.click(function, inputs, output, **options)
    box.submit(function, inputs, output, **options)


def _examples(demo: LiraDemo, function: Callable[..., str], inputs: list[Any], output: gr.HTML) -> None:
    found = demo.examples()
    if found:
        gr.Examples(
            [[example.text, example.language] for example in found],
            inputs,
            output,
            function,
            example_labels=[_label(example) for example in found],
            cache_examples=False,
            run_on_click=True,
            examples_per_page=14,
            label="Examples from the data",
            api_visibility="private",
        )


def _label(example: DemoExample) -> str:
    short = example.text if len(example.text) <= _LABEL else example.text[: _LABEL - 1].rstrip() + "…"
    # Isolated, so that a text from right to left leaves the tag in its place.
    return f"\u2068{short}\u2069 · {example.language}"


def _told(render: Callable[[], str]) -> str:
    """A panel, or what went wrong in its place."""
    try:
        return render()
    except _READABLE as error:
        return render_error(str(error))
    except Exception as error:  # a page that shows nothing tells nothing
        logger.exception("the demo could not answer")
        return render_error(f"{type(error).__name__}: {error}. The server's log has the details.")


def serve_page(
    page: gr.Blocks, port: int = 7860, host: str = "127.0.0.1", inbrowser: bool = False, block: bool = True
) -> str:
    """
    Serves the page, and nothing leaves the machine for it: no statistics, no fonts or scripts from elsewhere, no
    public link.

    Args:
        page (`gradio.Blocks`): Of [`build_page`].
        port (`int`, *optional*, defaults to 7860): Port; 0 takes a free one.
        host (`str`, *optional*, defaults to `"127.0.0.1"`): Address to listen on; the default is for this machine
            alone.
        inbrowser (`bool`, *optional*, defaults to `False`): Open the page in a browser.
        block (`bool`, *optional*, defaults to `True`): Return only when it ends.

    Returns:
        `str`: The page's address.

    Raises:
        OSError: The port is taken.
    """
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    _, address, _ = page.launch(
        server_name=host,
        server_port=port or None,
        share=False,
        inbrowser=inbrowser,
        quiet=True,
        prevent_thread_lock=True,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        footer_links=[],
        theme=theme,
        css=STYLE,
        app_kwargs={"middleware": [Middleware(_OwnMachineOnly)]},
    )
    if block:
        page.block_thread()
    return address
