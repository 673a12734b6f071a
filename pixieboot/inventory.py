"""The registry as one immutable value, and the question it answers: who is this client, and what is it to boot?"""


from pixieboot.model import MachineState, Profile

MENU = Profile("menu", title="Menu", menu=True, where="built in")
LOCAL = Profile("local", title="Local disk", local=True, where="built in")
BUILT_IN = {MENU.name: MENU, LOCAL.name: LOCAL}
_FRESH = MachineState()
