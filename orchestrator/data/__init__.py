"""From shards to blocks: index, readers, order, decoding, tokens, the stream, and the embedded scenes."""
