// What a precompiled header needs to be a target of its own.
int main() {}
