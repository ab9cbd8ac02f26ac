"""How Schemathesis sends lines of JSON: the schema says that they are text."""

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def lines_of_json(_context, value):
    return value if isinstance(value, bytes) else str(value).encode()
