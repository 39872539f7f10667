package agent

import (
	"testing"
	"time"
)

// What was done is told once, and only the first of each kind.
func TestSteps(t *testing.T) {
	var s steps
	if s.take() != nil {
		t.Error("something was done already")
	}
	began := time.Now()
	s.took("start", began)
	s.took("start", began)
	s.took("open the data path", began)
	j := s.take()
	if j == nil || len(j.Steps) != 2 || j.Steps[0].Name != "start" || j.Validate() != nil {
		t.Errorf("%+v", j)
	}
	s.took("start", began)
	if j := s.take(); j != nil {
		t.Errorf("told twice: %+v", j)
	}
}
