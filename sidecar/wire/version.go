package wire

import "fmt"

// MaxVersion bounds what a member says of its program's version, in bytes.
const MaxVersion = 64

// ShortVersion is as much of a program's version as may be said of it: whoever builds one names it as they like.
func ShortVersion(s string) string { return s[:min(len(s), MaxVersion)] }

// CheckVersion says what is wrong with a version: it is shown to people, so it is made of letters, digits and some signs alone. None at
// all is fine: members of before say none.
func CheckVersion(s string) error {
	if len(s) > MaxVersion {
		return fmt.Errorf("version: %d bytes, want at most %d", len(s), MaxVersion)
	}
	for _, c := range []byte(s) {
		letter := c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && c != '.' && c != '-' && c != '_' && c != '+' {
			return fmt.Errorf("version: %.64q has other signs than letters, digits and . - _ +", s)
		}
	}
	return nil
}
