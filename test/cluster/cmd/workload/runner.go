package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"sync"
)

// job is a line that the runner reads, and outcome the line that it answers with.
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

// runner runs this program with the arguments of each line, side by side, until there are no more lines. Then it ends those that run.
// Whoever has many commands for a container saves the container's runtime the start of each.
func runner(ctx context.Context, in io.Reader, out io.Writer) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var (
		all   sync.WaitGroup
		mu    sync.Mutex
		lines = json.NewEncoder(out)
		jobs  = json.NewDecoder(in)
	)
	defer all.Wait()
	defer cancel()
	for {
		var j job
		if err := jobs.Decode(&j); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		all.Go(func() {
			o := perform(ctx, self, j)
			mu.Lock()
			defer mu.Unlock()
			_ = lines.Encode(o) // nobody is there to hear of it
		})
	}
}

func perform(ctx context.Context, self string, j job) outcome {
	var stdout, stderr bytes.Buffer
	c := exec.CommandContext(ctx, self, j.Args...) //nolint:gosec // what the test asks for
	c.Stdout, c.Stderr = &stdout, &stderr
	err := c.Run()
	o := outcome{j.ID, c.ProcessState.ExitCode(), stdout.String(), stderr.String()}
	if o.Code < 0 { // not started, or killed
		o.Code, o.Stderr = 1, o.Stderr+err.Error()
	}
	return o
}
