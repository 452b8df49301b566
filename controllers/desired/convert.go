package desired

import (
	"encoding/json"
	"fmt"
)

// convert turns an API type into the apply configuration of the same type.
// Both have the same JSON; client-go has no other conversion for them.
func convert[To any](from any) *To {
	b, err := json.Marshal(from)
	to := new(To)
	if err == nil {
		err = json.Unmarshal(b, to)
	}
	if err != nil { // the two types are generated from one another
		panic(fmt.Sprintf("convert %T to %T: %v", from, to, err))
	}
	return to
}
