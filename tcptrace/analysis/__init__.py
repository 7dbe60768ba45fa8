"""From the rows of a trace to connections and their summary. Runs anywhere, without privileges."""
