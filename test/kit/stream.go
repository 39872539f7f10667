package kit

import (
	"bufio"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Stream is a measurement that runs in a pod's application container, started from its node: no API server is asked, and what it prints
// is here at once.
type Stream struct {
	name string

	mu    sync.Mutex // guards what follows
	lines []string
	ended bool
}

// StartStream runs workload with arguments until the test ends.
func (n *Namespace) StartStream(name, pod string, args ...string) *Stream {
	n.T.Helper()
	var p corev1.Pod
	n.Read(pod, &p)
	k, err := runningTask(n.T.Context(), &p, AppContainer)
	if err != nil {
		n.T.Fatalf("start %s: %v", name, err)
	}
	id := "stream-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	c := script(context.Background(), "node-exec.sh", append([]string{strings.TrimPrefix(p.Spec.NodeName, "node"),
		"ctr", "-n", "k8s.io", "tasks", "exec", "--exec-id", id, k.id, "/workload"}, args...)...)
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		n.T.Fatalf("start %s: %v", name, err)
	}
	s := &Stream{name: name}
	go s.read(bufio.NewScanner(out))
	n.T.Cleanup(func() { // what it started on the node ends with the pod
		_ = c.Process.Kill()
		_ = c.Wait() // which closes out
	})
	return s
}

func (s *Stream) read(sc *bufio.Scanner) {
	for sc.Scan() {
		s.mu.Lock()
		s.lines = append(s.lines, sc.Text())
		s.mu.Unlock()
	}
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
}

// Name is what the measurement was called.
func (s *Stream) Name() string { return s.name }

// Lines are what it has printed. An error: it has ended.
func (s *Stream) Lines() ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return s.lines, fmt.Errorf("%s has ended: %q", s.name, s.lines[max(0, len(s.lines)-3):])
	}
	return slices.Clone(s.lines), nil
}

// Silence is what a stream suffered in some time.
type Silence struct {
	Longest time.Duration // without anything that came, or succeeded
	Loss    time.Duration // the longest such time in which messages were lost; the others came late
	Lost    int           // messages that did not come, or requests that failed
	Refused int           // requests that nobody listened for
	Reasons map[string]int
}

// Pings reads what "ping -gaps" printed, of silences that ended in a time. An error: nothing has come lately.
func (s *Stream) Pings(from, to time.Time) (out Silence, err error) {
	lines, err := s.Lines()
	if err != nil {
		return out, err
	}
	var seen, before int
	for _, line := range lines {
		f := strings.Fields(line)
		if len(f) < 6 {
			continue
		}
		at, err := time.Parse(time.RFC3339Nano, f[2])
		if err != nil || at.Before(from) || at.After(to) {
			continue
		}
		if f[0] == "SEEN" {
			before = seen
			seen, _ = strconv.Atoi(f[3])
			continue
		}
		silent, err := time.ParseDuration(strings.TrimSuffix(f[4], ","))
		if err != nil {
			continue
		}
		lost, _ := strconv.Atoi(f[5])
		out.Longest, out.Lost = max(out.Longest, silent), out.Lost+lost
		if lost > 0 {
			out.Loss = max(out.Loss, silent)
		}
	}
	if before == 0 || seen <= before {
		return out, fmt.Errorf("%s: nothing comes: %q", s.name, lines[max(0, len(lines)-3):])
	}
	return out, nil
}

// Requests reads what "get -every" printed, of requests that were over in a time. An error: none succeeded that began in its last second.
func (s *Stream) Requests(from, to time.Time) (out Silence, err error) {
	lines, err := s.Lines()
	if err != nil {
		return out, err
	}
	out.Reasons = map[string]int{}
	var came []time.Time
	fresh := false
	for _, line := range lines {
		f := strings.Fields(line)
		if len(f) < 3 {
			continue
		}
		began, err := time.Parse(time.RFC3339Nano, f[0])
		ms, err2 := strconv.Atoi(f[1])
		over := began.Add(time.Duration(ms) * time.Millisecond)
		if err != nil || err2 != nil || over.Before(from) || over.After(to) {
			continue
		}
		if f[2] == "OK" {
			came = append(came, over)
			fresh = fresh || began.After(to.Add(-time.Second))
			continue
		}
		out.Lost++
		if strings.Contains(line, "connection refused") {
			out.Refused++
		}
		out.Reasons[line[strings.LastIndex(line, ": ")+1:]]++
	}
	slices.SortFunc(came, time.Time.Compare)
	last := from
	for _, at := range append(came, to) {
		out.Longest, last = max(out.Longest, at.Sub(last)), at
	}
	if !fresh {
		return out, fmt.Errorf("%s: nothing succeeds: %q", s.name, lines[max(0, len(lines)-3):])
	}
	return out, nil
}
