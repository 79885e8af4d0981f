"""What a chat is shown with and reads with: plain lines, or a live terminal."""
