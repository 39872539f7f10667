package kit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"sync"
	"time"
)

// runners keep one "workload runner" for each container in which commands were executed: to execute each on its own costs a small
// machine more than what most of them do.
type runners struct {
	mu sync.Mutex
	of map[string]*runner // by namespace, pod and container
}

// runner has commands executed in one container, side by side, until the container or the test ends.
type runner struct {
	jobs  io.WriteCloser
	ended chan struct{}

	mu      sync.Mutex
	waiting map[int]chan<- outcome
	next    int
}

// job and outcome are the lines of "workload runner".
type job struct {
	ID   int      `json:"id"`
	Args []string `json:"args"`
}

type outcome struct {
	ID     int    `json:"id"`
	Code   int    `json:"code"`
	Stdout string `json:"stdout"`
	Stderr string `json:"stderr"`
}

var errRunnerEnded = errors.New("the container's runner ended")

// runner returns the container's, and starts one where there is none that runs.
func (n *Namespace) runner(pod, container string) *runner {
	key := n.Name + "/" + pod + "/" + container
	all := &n.Cluster.runners
	all.mu.Lock()
	defer all.mu.Unlock()
	if r := all.of[key]; r != nil && !r.hasEnded() {
		return r
	}
	in, jobs := io.Pipe()
	outcomes, out := io.Pipe()
	r := &runner{jobs: jobs, ended: make(chan struct{}), waiting: map[int]chan<- outcome{}}
	if all.of == nil {
		all.of = map[string]*runner{}
	}
	all.of[key] = r
	ctx, cancel := context.WithCancel(context.WithoutCancel(n.T.Context()))
	context.AfterFunc(n.T.Context(), func() {
		_ = jobs.Close() // it ends by itself
		time.AfterFunc(10*time.Second, cancel)
	})
	go func() {
		defer close(r.ended)
		defer cancel()
		_ = n.stream(ctx, pod, container, []string{workloadPath, "runner"}, in, out, io.Discard)
		_ = in.CloseWithError(errRunnerEnded)
		_ = out.CloseWithError(errRunnerEnded)
	}()
	go r.hand(outcomes)
	return r
}

func (r *runner) hasEnded() bool {
	select {
	case <-r.ended:
		return true
	default:
		return false
	}
}

// hand gives each outcome to who waits for it.
func (r *runner) hand(outcomes io.Reader) {
	for lines := json.NewDecoder(outcomes); ; {
		var o outcome
		if lines.Decode(&o) != nil {
			return
		}
		r.mu.Lock()
		to := r.waiting[o.ID]
		delete(r.waiting, o.ID)
		r.mu.Unlock()
		if to != nil {
			to <- o
		}
	}
}

// run has a command executed. An error says that nobody knows whether it was.
func (r *runner) run(ctx context.Context, args []string) (Result, error) {
	done := make(chan outcome, 1)
	if err := r.send(args, done); err != nil {
		return Result{}, err
	}
	select {
	case o := <-done:
		return Result{Stdout: o.Stdout, Stderr: o.Stderr, Code: o.Code}, nil
	case <-r.ended:
		return Result{}, errRunnerEnded
	case <-ctx.Done():
		return Result{}, ctx.Err()
	}
}

func (r *runner) send(args []string, done chan<- outcome) error {
	r.mu.Lock()
	r.next++
	j := job{r.next, args}
	r.waiting[j.ID] = done
	r.mu.Unlock()
	var line bytes.Buffer
	if err := json.NewEncoder(&line).Encode(j); err != nil {
		return err
	}
	_, err := r.jobs.Write(line.Bytes()) // as one, so that lines do not mix
	return err
}
