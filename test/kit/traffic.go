package kit

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// Traffic is an application that keeps asking. It runs as its pod's own process, so that nothing of it goes through the API server;
// what it saw is read from its log.
type Traffic struct {
	n    *Namespace
	pod  string
	seen Requests
}

// Requests is what "workload get" saw: every request is a new connection, retried by nobody.
type Requests struct {
	OK     int
	Failed []string // the lines, with their times
	MaxGap time.Duration
	Hosts  map[string]int // answers by the name of who answered
	last   time.Time
}

// StartRequests makes a member pod that gets the URL every interval, and returns after its first answers.
func (n *Namespace) StartRequests(pod string, interval time.Duration, url string, change ...func(*corev1.Pod)) *Traffic {
	n.T.Helper()
	tr := n.startTraffic(pod, []string{"get", "-n", "1000000000", "-interval", interval.String(), "-timeout", "5s", url}, change)
	tr.WaitMore(5)
	return tr
}

func (n *Namespace) startTraffic(pod string, args []string, change []func(*corev1.Pod)) *Traffic {
	n.T.Helper()
	p := Pod(pod, args...)
	p.Spec.RestartPolicy = corev1.RestartPolicyNever
	for _, f := range change {
		f(p)
	}
	n.Create(p)
	n.WaitReady(pod)
	return &Traffic{n: n, pod: pod, seen: Requests{Hosts: map[string]int{}}}
}

// Pod is the pod's name.
func (tr *Traffic) Pod() string { return tr.pod }

// Seen is what was asked and answered until now. What was read before is not read again: a log of minutes is of megabytes.
func (tr *Traffic) Seen() (Requests, error) {
	o := corev1.PodLogOptions{Container: AppContainer, Timestamps: true}
	if s := &tr.seen; !s.last.IsZero() {
		o.SinceTime = ptr.To(metav1.NewTime(s.last)) // in whole seconds
	}
	text, err := tr.n.Logs(tr.n.T.Context(), tr.pod, o)
	for err == nil {
		line, rest, whole := strings.Cut(text, "\n")
		if !whole {
			break
		}
		tr.seen.note(line)
		text = rest
	}
	s := tr.seen
	s.Failed, s.Hosts = slices.Clone(s.Failed), maps.Clone(s.Hosts)
	return s, err
}

func (s *Requests) note(line string) {
	at, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	if now, err := time.Parse(time.RFC3339Nano, at); err == nil {
		if !now.After(s.last) {
			return // it was noted before
		}
		if !s.last.IsZero() {
			s.MaxGap = max(s.MaxGap, now.Sub(s.last))
		}
		s.last = now
	}
	h, err := ParseHello(rest)
	if err != nil {
		s.Failed = append(s.Failed, line)
		return
	}
	s.OK++
	s.Hosts[h.Host]++
}

// WaitMore waits until so many more requests were answered, so that what was done before is under traffic for sure.
func (tr *Traffic) WaitMore(answers int) Requests {
	tr.n.T.Helper()
	var s Requests
	first := -1
	Eventually(tr.n.T, Deadline, fmt.Sprintf("%d more answers to %s", answers, tr.pod), func() error {
		var err error
		if s, err = tr.Seen(); err != nil {
			return err
		}
		if first < 0 {
			first = s.OK
		}
		if s.OK < first+answers {
			return fmt.Errorf("%d of %d, %d failed %v", s.OK-first, answers, len(s.Failed), last(s.Failed))
		}
		return nil
	})
	return s
}

func last(lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	return lines[len(lines)-1]
}

// MustBeWhole ends the test if a request failed.
func (tr *Traffic) MustBeWhole() Requests {
	tr.n.T.Helper()
	s, err := tr.Seen()
	if err != nil {
		tr.n.T.Fatalf("read what %s saw: %v", tr.pod, err)
	}
	if len(s.Failed) > 0 {
		tr.n.T.Fatalf("%s: %d requests failed beside %d answered, the first: %s", tr.pod, len(s.Failed), s.OK, s.Failed[0])
	}
	tr.n.T.Logf("%s: %d requests, none failed, at most %s between two", tr.pod, s.OK, s.MaxGap.Round(time.Millisecond))
	return s
}

// Echoes is what tcp-ping and udp-ping print: numbered messages on one socket.
type Echoes struct {
	Sent, Received, Lost, Repeated int
	Error                          string
	MaxGapMs, P50Ms, P99Ms         float64
}

// StartPing makes a member pod that sends a message each interval over one connection ("tcp" or "udp") until Stop.
func (n *Namespace) StartPing(pod, network string, interval time.Duration, address string, change ...func(*corev1.Pod)) *Traffic {
	n.T.Helper()
	return n.startTraffic(pod, []string{network + "-ping", "-interval", interval.String(), "-duration", "1h", address}, change)
}

// StopPing ends the pod and returns what its ping saw.
func (tr *Traffic) StopPing() Echoes {
	tr.n.T.Helper()
	ctx, cancel := context.WithTimeout(tr.n.T.Context(), Deadline)
	defer cancel()
	e, err := tr.stopPing(ctx)
	if err != nil {
		tr.n.T.Fatalf("end %s: %v", tr.pod, err)
	}
	return e
}

func (tr *Traffic) stopPing(ctx context.Context) (e Echoes, err error) {
	r, err := tr.n.Kube.CoreV1().Pods(tr.n.Name).GetLogs(tr.pod, &corev1.PodLogOptions{Container: AppContainer, Follow: true}).Stream(ctx)
	if err != nil {
		return e, err
	}
	defer r.Close()
	p := Pod(tr.pod)
	p.Namespace = tr.n.Name
	if err := tr.n.Delete(ctx, p); err != nil {
		return e, err
	}
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		if strings.HasPrefix(sc.Text(), "{") {
			return e, json.Unmarshal(sc.Bytes(), &e)
		}
	}
	return e, errors.Join(errors.New("its log has no result"), sc.Err())
}
