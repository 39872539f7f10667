package wire

import (
	"fmt"
	"time"
)

// maxSteps bounds what a Join has.
const maxSteps = 8

// Join is what a member did on its way into the tunnel, for traces. It is told once.
type Join struct {
	Steps []Step `json:"steps"`
}

// Step took from one time until another, by the member's clock.
type Step struct {
	Name  string    `json:"name"` // at most 32 bytes
	Begin time.Time `json:"begin"`
	End   time.Time `json:"end"`
}

// Validate names the first field that cannot be so. None is good.
func (j *Join) Validate() error {
	if j == nil {
		return nil
	}
	if len(j.Steps) > maxSteps {
		return fmt.Errorf("join.steps: %d, want at most %d", len(j.Steps), maxSteps)
	}
	for i, s := range j.Steps {
		if s.Name == "" || len(s.Name) > 32 {
			return fmt.Errorf("join.steps[%d].name: %d bytes, want 1 to 32", i, len(s.Name))
		}
		for _, c := range []byte(s.Name) {
			if (c < 'a' || c > 'z') && c != ' ' {
				return fmt.Errorf("join.steps[%d].name: %q has something else than small letters and spaces", i, s.Name)
			}
		}
		if s.End.Before(s.Begin) || s.End.Sub(s.Begin) > 24*time.Hour {
			return fmt.Errorf("join.steps[%d].end: %s is not within a day of %s", i, s.End, s.Begin)
		}
	}
	return nil
}
