// Package doctor finds out what is wrong with tunnels and says what to do about it. It goes:
//
//	Gather (the user's own rights) -> Facts -> checks, pure -> Report
//
// Facts are read once. What the user may not read is no error: the checks that need it are not made, and the report says which right
// they would take. Each check is one entry of a table (checks.go), with a name that stays the same, and docs/troubleshooting.md has a row
// for each. A finding says what is wrong, by what one sees that, and what to do.
//
// The way from a pod to a name is walked by sidecars at both ends (see wire.Diagnosis); path.go makes sense of what they say.
package doctor

// Severity says how much a finding weighs.
type Severity string

// The severities.
const (
	Error   Severity = "Error"   // something does not work
	Warning Severity = "Warning" // something will not work, or not as it was meant
	Note    Severity = "Note"    // worth knowing; all may be well
)

func (s Severity) rank() int {
	switch s {
	case Error:
		return 0
	case Warning:
		return 1
	}
	return 2
}

// Finding is something that a check found.
type Finding struct {
	Check    string   `json:"check"`
	Severity Severity `json:"severity"`
	Object   string   `json:"object"` // what it is about, for example "peer acme/laptop"
	What     string   `json:"what"`   // is wrong, in a sentence
	Evidence string   `json:"evidence,omitempty"`
	Fix      string   `json:"fix,omitempty"` // a command, or what to do
}

// Check looks for one kind of fault.
type Check struct {
	Name     string
	Severity Severity
	Looks    string // for what; docs/troubleshooting.md says the same
	needs    []source
	run      func(*Facts) []Finding
}

// source is something that is read for Facts.
type source string
