"""The Streamlit front end. Imports saa_core; nothing imports app."""
