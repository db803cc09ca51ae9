package iscsi

import (
	"fmt"
	"strings"
)

// unready is an ErrNotReady that knows what to do about it.
type unready struct {
	what   error
	remedy string
}

func (e unready) Error() string   { return fmt.Sprintf("%v: %v; %s", ErrNotReady, e.what, e.remedy) }
func (e unready) Unwrap() []error { return []error{ErrNotReady, e.what} }

// several is more than one error in one line; errors.Is finds each of them.
type several []error

func (s several) Error() string {
	words := make([]string, len(s))
	for n, err := range s {
		words[n] = err.Error()
	}
	return strings.Join(words, "; ")
}

func (s several) Unwrap() []error { return s }

// together is errors.Join in one line, which logs and gRPC messages want.
func together(errs ...error) error {
	var s several
	for _, err := range errs {
		if err != nil {
			s = append(s, err)
		}
	}
	switch len(s) {
	case 0:
		return nil
	case 1:
		return s[0]
	}
	return s
}

// oneLine is what a tool said, as part of a sentence.
func oneLine(s string) string {
	var lines []string
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "; ")
}
