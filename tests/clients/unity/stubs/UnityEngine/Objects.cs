using System;
using System.Collections.Generic;

// Stand-ins for the part of UnityEngine that the package uses, with the signatures of Unity 2021.3. They prove that the
// components compile and that their logic holds; how Unity itself behaves they cannot prove.
namespace UnityEngine
{
    [Flags] public enum HideFlags { None = 0, HideInHierarchy = 1, DontSave = 52, HideAndDontSave = 61 }

    public class Object
    {
        public static readonly List<Object> Destroyed = new List<Object>();
        public string name { get; set; } = "";
        public HideFlags hideFlags { get; set; }
        public bool IsDestroyed { get; private set; }

        public static void Destroy(Object one) { one.IsDestroyed = true; Destroyed.Add(one); }
        public static void DestroyImmediate(Object one) => Destroy(one);
        public static T FindObjectOfType<T>() where T : Object => null;
        public static bool operator ==(Object a, Object b) => ReferenceEquals(Alive(a), Alive(b)); // what was destroyed equals null
        public static bool operator !=(Object a, Object b) => !(a == b);
        public override bool Equals(object other) => ReferenceEquals(this, other);
        public override int GetHashCode() => base.GetHashCode();
        static object Alive(Object one) => ReferenceEquals(one, null) || one.IsDestroyed ? null : one;
    }

    public class Component : Object
    {
        GameObject mine;
        public GameObject gameObject { get => mine ?? (mine = new GameObject()); set => mine = value; }
        public Transform transform => gameObject.transform;
        public string tag { get; set; } = "Untagged";
        public bool CompareTag(string other) => tag == other;
        public T GetComponent<T>() where T : class => gameObject.GetComponent<T>();
        public T GetComponentInParent<T>() where T : class => gameObject.GetComponent<T>();
    }

    public class Behaviour : Component
    {
        public bool enabled { get; set; } = true;
        public bool isActiveAndEnabled => enabled;
    }

    public class MonoBehaviour : Behaviour
    {
        public Coroutine StartCoroutine(System.Collections.IEnumerator routine) => new Coroutine();
    }

    public sealed class Coroutine { }

    public sealed class GameObject : Object
    {
        readonly List<Component> components = new List<Component>();
        public Transform transform { get; }
        public string tag { get; set; } = "Untagged";

        public GameObject() { transform = new Transform(this); }
        public GameObject(string name) : this() { this.name = name; }
        public void SetActive(bool active) { }
        public T GetComponent<T>() where T : class => components.Find(one => one is T) as T;

        public T AddComponent<T>() where T : Component, new()
        {
            var one = new T { gameObject = this };
            components.Add(one);
            return one;
        }

        public static GameObject CreatePrimitive(PrimitiveType type)
        {
            var made = new GameObject(type.ToString());
            made.AddComponent<Renderer>();
            made.AddComponent<Collider>();
            return made;
        }
    }

    public enum PrimitiveType { Sphere, Capsule, Cylinder, Cube, Plane, Quad }

    public sealed class Transform : Component
    {
        public Transform() { }
        internal Transform(GameObject owner) { gameObject = owner; }
        public Vector3 localScale { get; set; }
        public Vector3 position { get; set; }
        public Vector3 localPosition { get; set; }
        public Quaternion rotation { get; set; }
        public Vector3 forward => new Vector3(0, 0, 1);
        public Vector3 right => new Vector3(1, 0, 0);
        public Vector3 eulerAngles { get; set; }
        public void Rotate(float x, float y, float z) { }
        public void SetParent(Transform parent, bool worldPositionStays) { }
    }

    public class Collider : Component { public bool isTrigger { get; set; } public bool enabled { get; set; } }
    public class BoxCollider : Collider { public Vector3 size { get; set; } }
    public class Collider2D : Component { }
    public class Rigidbody : Component { public bool isKinematic { get; set; } public bool useGravity { get; set; } }
    public sealed class Collision { public Collider collider { get; set; } }
    public sealed class Collision2D { public Collider2D collider { get; set; } }
    public sealed class CharacterController : Collider { public bool SimpleMove(Vector3 speed) => true; }

    public class ScriptableObject : Object { }

    public struct AnimatorStateInfo { public int shortNameHash { get; set; } }

    public sealed class Animator : Behaviour
    {
        public AnimatorStateInfo Now;
        public AnimatorStateInfo GetCurrentAnimatorStateInfo(int layer) => Now;
        public static int StringToHash(string name) => name.GetHashCode();
    }

    public sealed class Camera : Behaviour
    {
        public static Camera main => null;
        public CameraClearFlags clearFlags { get; set; }
        public Color backgroundColor { get; set; }
    }

    public enum CameraClearFlags { Skybox = 1, SolidColor = 2 }
    public enum LightType { Spot, Directional, Point }
    public sealed class Light : Behaviour { public LightType type { get; set; } public float intensity { get; set; } }

    public static class Resources
    {
        public static readonly List<Object> All = new List<Object>();
        public static T[] FindObjectsOfTypeAll<T>() where T : Object => All.FindAll(one => one is T).ConvertAll(one => (T)one).ToArray();
        public static T GetBuiltinResource<T>(string path) where T : Object => null;
    }

    public static class Application
    {
        public static bool isPlaying { get; set; } = true;
        public static string productName { get; set; } = "Stub Game";
        public static bool runInBackground { get; set; }
    }

    public static class Time
    {
        public static float unscaledTime { get; set; }
        public static float time { get; set; }
        public static float deltaTime { get; set; } = 1 / 60f;
    }

    public static class Debug
    {
        public static readonly List<string> Said = new List<string>();
        public static void Log(object words) => Said.Add("log: " + words);
        public static void Log(object words, Object context) => Said.Add("log: " + words);
        public static void LogWarning(object words, Object context) => Said.Add("warning: " + words);
        public static void LogError(object words) => Said.Add("error: " + words);
    }

    public enum KeyCode { Alpha0 = 48, Alpha1, Alpha2, Alpha3, Alpha4, Alpha5, Alpha6, Alpha7, Alpha8, Alpha9, Space = 32 }

    public static class Input
    {
        public static readonly HashSet<KeyCode> Down = new HashSet<KeyCode>();
        public static bool GetKeyDown(KeyCode key) => Down.Contains(key);
        public static float GetAxis(string name) => 0;
    }
}
