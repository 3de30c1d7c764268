"""One file a family: its parts, how pictures become rows, how positions are made."""
