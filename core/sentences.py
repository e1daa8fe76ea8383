"""The sentences that users read, in each language that `HEARTLINE_LANGUAGE` offers.

Errors about a request's form are for developers and stay in English.
"""

_SENTENCES: dict[str, dict[str, str]] = {
    "en": {
        "starting": "Starting {model} …",
        "queued": "Waiting: place {place} in the queue …",
        "taking_turns": "Waiting: another answer of this conversation is at work; this one is next …",
        "retrying": "The model's API does not answer ({reason}); next attempt in {seconds} s …",
        "compacting": "Shortening the conversation to fit the model …",
        "restarted": "The connection to the model broke; it starts this part again:",
        "no_answer": "no answer",
        "cut": "[The rest was cut.]",
        "unfinished": "The run ended before this tool had.",
        "cli_error": "Claude ended with an error: {reason}",
        "cli_missing": "The Claude CLI could not be started: {reason} Please tell the operator of this server.",
        "no_result": "Claude stopped before it had finished its answer ({reason}). Please try again.",
        "max_turns": "Claude stopped after {turns} steps, the limit of this model. "
        "Ask it to continue, or split the task.",
        "timeout": "The run took longer than {seconds} s and was stopped. "
        "What was written so far stays; ask for a smaller step.",
        "answer_too_long": "The answer grew beyond {megabytes} MB and was stopped. Ask for a shorter one.",
        "stalled": "Nothing was heard of Claude for {seconds} s, and the run was stopped. Please try again.",
        "tool_timeout": "The tool {tool} took longer than {seconds} s, and the run was stopped. "
        "Ask for a smaller step.",
        "queue_timeout": "The server was too busy to begin within {seconds} s. Please try again later.",
        "worker_lost": "The server that worked on this was lost. Please try again.",
        "replica_shutdown": "The server is being restarted and had to end this answer. Please try again.",
        "no_answer_file": "Claude has finished, but wrote no answer. Please try again.",
        "no_structured_answer": "Claude has finished, but not with an answer in the form that was asked for. "
        "Please try again.",
        "schema_refused": "The schema for the answer cannot be used: it is {reason}",
        "worker_shutdown": "The server is being restarted and had to stop this run. Please try again.",
        "internal": "Heartline made a mistake and had to end this run ({reason}). Please try again.",
        "cancelled": "This run was stopped.",
        "log_lost": "The server lost the record of this run. Please ask again.",
        "wrong_key": "This is no key of this server.",
        "too_many_logins": "Too many wrong keys have come from your address. Please wait a minute.",
        "foreign_login": "Your browser did not say that this comes from the login page. Please load the page again.",
    },
    "de": {
        "starting": "{model} wird gestartet …",
        "queued": "Bitte warten: Platz {place} in der Warteschlange …",
        "taking_turns": "Bitte warten: In dieser Unterhaltung entsteht noch eine andere Antwort; "
        "diese ist die nächste …",
        "retrying": "Die API des Modells antwortet nicht ({reason}); nächster Versuch in {seconds} s …",
        "compacting": "Die Unterhaltung wird gekürzt, damit sie ins Modell passt …",
        "restarted": "Die Verbindung zum Modell ist abgebrochen; dieser Teil beginnt von vorn:",
        "no_answer": "keine Antwort",
        "cut": "[Der Rest wurde abgeschnitten.]",
        "unfinished": "Der Lauf endete, bevor dieses Werkzeug fertig war.",
        "cli_error": "Claude endete mit einem Fehler: {reason}",
        "cli_missing": "Das Claude-CLI ließ sich nicht starten: {reason} "
        "Bitte sagen Sie es dem Betreiber dieses Servers.",
        "no_result": "Claude hörte auf, bevor die Antwort fertig war ({reason}). Bitte versuchen Sie es noch einmal.",
        "max_turns": "Claude hörte nach {turns} Schritten auf, der Grenze dieses Modells. "
        "Bitten Sie um die Fortsetzung, oder teilen Sie die Aufgabe.",
        "timeout": "Der Lauf dauerte länger als {seconds} s und wurde beendet. "
        "Was schon da ist, bleibt; bitten Sie um einen kleineren Schritt.",
        "answer_too_long": "Die Antwort wurde länger als {megabytes} MB und wurde abgebrochen. "
        "Bitten Sie um eine kürzere.",
        "stalled": "Von Claude kam {seconds} s lang nichts, und der Lauf wurde beendet. "
        "Bitte versuchen Sie es noch einmal.",
        "tool_timeout": "Das Werkzeug {tool} brauchte länger als {seconds} s, und der Lauf wurde beendet. "
        "Bitten Sie um einen kleineren Schritt.",
        "queue_timeout": "Der Server war zu beschäftigt, um innerhalb von {seconds} s zu beginnen. "
        "Bitte versuchen Sie es später noch einmal.",
        "worker_lost": "Der Server, der daran arbeitete, ist ausgefallen. Bitte versuchen Sie es noch einmal.",
        "replica_shutdown": "Der Server wird neu gestartet und musste diese Antwort beenden. "
        "Bitte versuchen Sie es noch einmal.",
        "no_answer_file": "Claude ist fertig, hat aber keine Antwort geschrieben. Bitte versuchen Sie es noch einmal.",
        "no_structured_answer": "Claude ist fertig, aber ohne eine Antwort in der verlangten Form. "
        "Bitte versuchen Sie es noch einmal.",
        "schema_refused": "Das Schema für die Antwort lässt sich nicht verwenden: {reason}",
        "worker_shutdown": "Der Server wird neu gestartet und musste diesen Lauf beenden. "
        "Bitte versuchen Sie es noch einmal.",
        "internal": "Heartline hat einen Fehler gemacht und musste diesen Lauf beenden ({reason}). "
        "Bitte versuchen Sie es noch einmal.",
        "cancelled": "Dieser Lauf wurde angehalten.",
        "log_lost": "Der Server hat die Aufzeichnung dieses Laufs verloren. Bitte fragen Sie noch einmal.",
        "wrong_key": "Das ist kein Schlüssel dieses Servers.",
        "too_many_logins": "Von Ihrer Adresse kamen zu viele falsche Schlüssel. Bitte warten Sie eine Minute.",
        "foreign_login": "Ihr Browser sagt nicht, dass das von der Anmeldeseite kommt. Bitte laden Sie die Seite neu.",
    },
}

LANGUAGES = tuple(_SENTENCES)


def sentence(language: str, key: str, **values: object) -> str:
    """The sentence `key` in `language`, filled in. Raises `KeyError` for one that does not exist."""
    return _SENTENCES[language][key].format(**values)
