"""A window with Tk: what is typed is sent, and what comes is shown.

python examples/tk_window.py [URL]

With chat.py as the server, several windows talk to each other.
"""

import signal
import sys
import tkinter as tk

import anyws
from anyws.callbacks import Client, Closed, Event, Failed, Message, Opened

# Milliseconds between two looks for what has come.
PERIOD = 20


class Window:
    def __init__(self, root: tk.Tk, url: str) -> None:
        self.root = root
        self.status = tk.Label(root, text="connecting", anchor="w")
        self.messages = tk.Listbox(root, width=60)
        self.entry = tk.Entry(root)
        self.status.pack(fill="x")
        self.messages.pack(fill="both", expand=True)
        self.entry.pack(fill="x")
        self.entry.bind("<Return>", self.on_return)
        self.entry.focus()
        self.client = Client(url, self.on_event, polled=True)
        self.client.open()
        self.look()

    def look(self) -> None:
        # Listeners are called here, in the thread that Tk has to be used in.
        self.client.poll()
        self.root.after(PERIOD, self.look)

    def on_event(self, event: Event) -> None:
        match event:
            case Opened():
                self.status["text"] = "connected"
            case Message(data=data):
                self.messages.insert("end", data if isinstance(data, str) else repr(data))
                self.messages.see("end")
            case Closed():
                self.status["text"] = f"disconnected: {event.closure.cause}"
            case Failed():
                self.status["text"] = f"no connection: {event.what}"

    def on_return(self, event: object) -> None:
        try:
            self.client.send(self.entry.get())
        except anyws.ConnectionClosed:
            return  # not open yet, or not any more: the label tells, and what was typed stays
        self.entry.delete(0, "end")


def main(url: str) -> None:
    root = tk.Tk()
    root.title(url)
    # Python's own answer to Ctrl-C, an exception, would end nothing but the callback it comes in.
    signal.signal(signal.SIGINT, lambda *_: root.after_idle(root.quit))
    window = Window(root, url)
    # Until Ctrl-C, or until somebody closes the window.
    root.mainloop()
    window.client.close()
    print("bye")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:8080/")
