"""Maps over the anatomy, and two dates of one patient: rigid registration, judged and drawn."""
