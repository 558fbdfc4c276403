"""Pictures and words to numbers: backbones, cached maps, vocabulary, word vectors."""
