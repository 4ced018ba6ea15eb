"""From an image to a pose: crops, score maps, their decoding, the search for people, and what scores are worth."""
