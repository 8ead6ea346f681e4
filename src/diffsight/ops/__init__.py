"""Operations and helpers that the other packages share."""
