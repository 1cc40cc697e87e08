"""The back-end for Label Studio (`rifenet serve`)."""
