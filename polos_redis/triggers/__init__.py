"""What starts workflows by itself: schedules and events."""
