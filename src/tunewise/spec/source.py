"""The names of what a study reads: data, models, adapters, texts."""

from typing import Annotated

from pydantic import AfterValidator

from tunewise.text.safe import check_source

# The name of a file, a folder, a hub id or something bundled: no control characters, no secrets.
Source = Annotated[str, AfterValidator(check_source)]
