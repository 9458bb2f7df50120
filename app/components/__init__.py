"""Parts that Streamlit does not have: the map with a moving window, and the strip of tokens."""
