// Judges histories of appends to one key at a time with porcupine, a linearizability checker.
//
// Standard input: one operation a JSON line. Standard output: one verdict a key, as JSON lines.
// The object is a key's version: how many records it has.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sort"
	"time"

	"github.com/anishathalye/porcupine"
)

// Operation is one call: `kind` is "append" or "read", `result` is "ok", "conflict" or "unknown".
// Times are integers of one clock; `end` means nothing where the outcome is unknown. `version`,
// where there is one, is the key's version after an append, or as a read or a conflict saw it.
type Operation struct {
	Key      string `json:"key"`
	Client   int    `json:"client"`
	Kind     string `json:"kind"`
	Expected *int   `json:"expected"`
	Start    int64  `json:"start"`
	End      int64  `json:"end"`
	Result   string `json:"result"`
	Version  *int   `json:"version"`
}

// Verdict is "ok", "illegal", or "unknown" where the time did not suffice.
type Verdict struct {
	Key        string `json:"key"`
	Verdict    string `json:"verdict"`
	Operations int    `json:"operations"`
}

const timeoutPerKey = 60 * time.Second

// An unknown outcome may take effect at any time after its call, or never: both branches are
// tried, as one of the states that it may lead to.
var model = (&porcupine.NondeterministicModel{
	Init: func() []interface{} { return []interface{}{0} },
	Step: func(state, input, _ interface{}) []interface{} {
		return step(state.(int), input.(Operation))
	},
}).ToModel()

func step(version int, op Operation) []interface{} {
	matches := op.Expected == nil || *op.Expected == version
	switch {
	case op.Kind == "read":
		if *op.Version == version {
			return []interface{}{version}
		}
	case op.Result == "unknown":
		if matches {
			return []interface{}{version, version + 1}
		}
		return []interface{}{version}
	case op.Result == "conflict":
		if !matches && (op.Version == nil || *op.Version == version) {
			return []interface{}{version}
		}
	case matches && (op.Version == nil || *op.Version == version+1):
		return []interface{}{version + 1}
	}
	return nil
}

func check(op Operation) error {
	switch {
	case op.Kind != "append" && op.Kind != "read":
		return fmt.Errorf("kind is %q", op.Kind)
	case op.Result != "ok" && op.Result != "conflict" && op.Result != "unknown":
		return fmt.Errorf("result is %q", op.Result)
	case op.Kind == "read" && (op.Result != "ok" || op.Version == nil):
		return fmt.Errorf("a read has no version")
	case op.Result == "conflict" && op.Expected == nil:
		return fmt.Errorf("a conflict has no expected version")
	case op.Result != "unknown" && op.End < op.Start:
		return fmt.Errorf("it ends before it starts")
	}
	return nil
}

func read(from io.Reader) (map[string][]porcupine.Operation, error) {
	keys := map[string][]porcupine.Operation{}
	last := int64(0)
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 1<<20)
	for number := 1; lines.Scan(); number++ {
		var op Operation
		err := json.Unmarshal(lines.Bytes(), &op)
		if err == nil {
			err = check(op)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		for _, at := range []int64{op.Start, op.End} {
			if at > last {
				last = at
			}
		}
		keys[op.Key] = append(keys[op.Key], porcupine.Operation{
			ClientId: op.Client, Input: op, Call: op.Start, Return: op.End,
		})
	}
	for _, operations := range keys {
		for i := range operations {
			if operations[i].Input.(Operation).Result == "unknown" {
				operations[i].Return = last + 1
			}
		}
	}
	return keys, lines.Err()
}

func main() {
	keys, err := read(os.Stdin)
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(2)
	}
	names := make([]string, 0, len(keys))
	for name := range keys {
		names = append(names, name)
	}
	sort.Strings(names)
	words := map[porcupine.CheckResult]string{
		porcupine.Ok: "ok", porcupine.Illegal: "illegal", porcupine.Unknown: "unknown",
	}
	out := json.NewEncoder(os.Stdout)
	for _, name := range names {
		result := porcupine.CheckOperationsTimeout(model, keys[name], timeoutPerKey)
		if err := out.Encode(Verdict{name, words[result], len(keys[name])}); err != nil {
			fmt.Fprintln(os.Stderr, "error:", err)
			os.Exit(2)
		}
	}
}
