"""The batch layer: replays a topic up to a Cut, and publishes the result as an immutable BatchView."""
