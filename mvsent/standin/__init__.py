"""A local stand-in for Flickr, Getty and a picture host, and the data that the demo draws."""
